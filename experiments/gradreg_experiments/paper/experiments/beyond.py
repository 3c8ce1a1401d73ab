"""The regularizers against current practice, at 500 training images without dropout, with ReLU and with GELU.

Weights are the paper's for this size; the rivals have usual ones. No weight was tuned here.
"""

from dataclasses import replace

from gradreg_experiments.paper.cells import CellExperiment, datagrad, no_penalty, spectreg
from gradreg_experiments.paper.figures import draw_table
from gradreg_experiments.paper.protocol import Choices, Protocol
from gradreg_experiments.paper.summary import WEIGHT_DECAY, Cell

__all__ = ["EXPERIMENT"]


def _cells(base: Protocol, choices: Choices) -> list[Cell]:
    cells = []
    for row, activation in (("ReLU", "relu"), ("GELU", "gelu")):
        plain = replace(base, train_size=500, activation=activation)
        dropout, mixup = replace(plain, before_last="dropout"), replace(plain, mixup=0.2)
        for column, protocol, make, decay in (
            ("weight decay 5e-4", plain, no_penalty, WEIGHT_DECAY),
            ("weight decay 5e-3", plain, no_penalty, 5e-3),
            ("label smoothing 0.1", replace(plain, label_smoothing=0.1), no_penalty, WEIGHT_DECAY),
            ("mixup 0.2", mixup, no_penalty, WEIGHT_DECAY),
            ("dropout 0.5", dropout, no_penalty, WEIGHT_DECAY),
            ("DataGrad 50", plain, datagrad(50.0), WEIGHT_DECAY),
            ("SpectReg 0.03", plain, spectreg(0.03, choices), WEIGHT_DECAY),
            ("DataGrad 50, mixup 0.2", mixup, datagrad(50.0), WEIGHT_DECAY),
            ("DataGrad 50, dropout 0.5", dropout, datagrad(50.0), WEIGHT_DECAY),
        ):
            cells.append(Cell(row, column, protocol, make, decay))
    return cells


EXPERIMENT = CellExperiment(
    name="beyond",
    title="Beyond the paper: MNIST, 500 training images",
    place=4,
    cells=_cells,
    draw=draw_table,
)
