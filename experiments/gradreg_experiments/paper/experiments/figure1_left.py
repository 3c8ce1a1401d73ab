"""Figure 1, left: methods by training set size, with dropout, with the weights of the authors' script."""

from collections.abc import Sequence
from dataclasses import replace

from gradreg_core.presets import ConfidencePenalty, FrobReg, JacReg
from gradreg_experiments.paper.cells import CellExperiment, datagrad, no_penalty, significant, spectreg
from gradreg_experiments.paper.experiment import text
from gradreg_experiments.paper.figures import draw_sizes
from gradreg_experiments.paper.protocol import Choices, Protocol
from gradreg_experiments.paper.summary import Cell, Make, Summary

__all__ = ["EXPERIMENT", "SIZES"]

SIZES = (500, 1000, 2000, 3000, 5000, 10_000, 15_000, 20_000)
"""Training set sizes."""


def _cells(base: Protocol, choices: Choices) -> list[Cell]:
    """Six methods per size. FrobReg has the weight of SpectReg, because SpectReg's expectation is FrobReg."""
    weights_of_datagrad = (50.0, 50.0, 50.0, 20.0, 20.0, 5.0, 2.0, 2.0)
    weights_of_spectreg = (0.03, 0.03, 0.03, 0.03, 0.003, 0.01, 0.01, 0.001)
    weights_of_entropy = (0.01, 0.01, 0.01, 0.01, 0.1, 0.1, 0.01, 0.03)
    tuned = (0.3, 0.03, 1.0, 1.0, 1.0, 1.0, 1.0, 0.3)
    weights_of_jacreg = weights_of_spectreg if choices.jacreg == "code" else tuned
    cells = []
    for index, size in enumerate(SIZES):
        protocol = replace(base, train_size=size, before_last="dropout")
        for column, make in (
            ("weight decay", no_penalty),
            ("DataGrad", datagrad(weights_of_datagrad[index])),
            ("SpectReg", spectreg(weights_of_spectreg[index], choices)),
            ("confidence penalty", _confidence(weights_of_entropy[index], base, choices)),
            ("JacReg", lambda seed, weight=weights_of_jacreg[index]: JacReg(weight)),
            ("FrobReg", lambda seed, weight=weights_of_spectreg[index]: FrobReg(weight)),
        ):
            cells.append(Cell(str(size), column, protocol, make))
    return cells


def _confidence(weight: float, base: Protocol, choices: Choices) -> Make:
    return lambda seed: ConfidencePenalty(weight * (base.batch if choices.entropy == "sum" else 1))


def _ranking(rows: Sequence[Summary]) -> str:
    """The methods sorted by gain, per size."""
    lines = [f"Points over {rows[0].cell.column}, the best first (*: significant at 5 %, each comparison by itself):\n"]
    for size in dict.fromkeys(row.cell.row for row in rows):
        own = [row for row in rows if row.cell.row == size and row.gain is not None and row.p_gain is not None]
        own.sort(key=lambda row: -(row.gain or 0.0))
        gains = ", ".join(f"{row.cell.column} {row.gain:+.2f}{'*' if significant(row) else ''}" for row in own)
        if gains:
            lines.append(f"- {int(size):,} images: {gains}")
    return "\n".join(lines) if len(lines) > 1 else ""


EXPERIMENT = CellExperiment(
    name="figure1-left",
    title="Figure 1, left: MNIST by training set size",
    place=2,
    cells=_cells,
    draw=draw_sizes,
    verdict=_ranking,
    remark=text("jacreg"),
)
