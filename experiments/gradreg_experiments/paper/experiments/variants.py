"""The family at 2,000 training images with dropout; all weights but the last two are those of the authors' script.

Spherical SpectReg has SpectReg's weight times m = 10, for the same expectation; InputFisher, which the authors
did not have, has DataGrad's weight.
"""

from dataclasses import replace

from gradreg_core.presets import FrobReg, InputFisher, JacReg, OneHot, RandomOneHot
from gradreg_experiments.paper.cells import CellExperiment, datagrad, no_penalty, spectreg
from gradreg_experiments.paper.figures import draw_table
from gradreg_experiments.paper.protocol import Choices, Protocol
from gradreg_experiments.paper.summary import Cell, Make

__all__ = ["EXPERIMENT"]


def _cells(base: Protocol, choices: Choices) -> list[Cell]:
    methods: tuple[tuple[str, Make], ...] = (
        ("NoGR", no_penalty),
        ("DataGrad", datagrad(50.0)),
        ("SpectReg", spectreg(0.03, choices)),
        ("OneHot", lambda seed: OneHot(0.3)),
        ("RandomOneHot", lambda seed: RandomOneHot(0.3, seed=seed)),
        ("JacReg", lambda seed: JacReg(1.0)),
        ("FrobReg", lambda seed: FrobReg(0.03)),
        ("spherical SpectReg", spectreg(0.3, choices, spherical=True)),
        ("InputFisher", lambda seed: InputFisher(50.0, seed=seed)),
    )
    return [Cell("variants", column, replace(base, before_last="dropout"), make) for column, make in methods]


EXPERIMENT = CellExperiment(
    name="variants",
    title="The family, MNIST, 2,000 training images, dropout",
    place=3,
    cells=_cells,
    draw=draw_table,
)
