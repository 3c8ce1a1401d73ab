"""What is trained for each table and figure: cells with their settings, and the paper's numbers where it has some.

All weights are those of the authors' scripts, where there is one; the cells of :func:`beyond` are this project's own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from gradreg_core.errors import InputError
from gradreg_core.presets import (
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    InputFisher,
    JacReg,
    OneHot,
    RandomOneHot,
    SpectReg,
    WeightDecay,
)
from gradreg_core.spec import Regularizer
from gradreg_experiments.paper.protocol import Job, Protocol

__all__ = ["EXPERIMENTS", "SIZES", "Cell", "Choices", "jobs", "select"]

WEIGHT_DECAY = 5e-4
SIZES = (500, 1000, 2000, 3000, 5000, 10_000, 15_000, 20_000)
"""Training set sizes of Figure 1, left."""

Make = Callable[[int], Regularizer | None]
"""seed of the draws -> regularizer without weight decay."""


@dataclass(frozen=True)
class Choices:
    """Where the paper and its code leave a choice that is not a :class:`Protocol`'s."""

    draw: str = "per_batch"
    """"per_batch": SpectReg has one direction for all images of a batch, as in the code; "per_sample": each its own."""
    jacreg: str = "code"
    """Weights of JacReg in Figure 1, left. "code": SpectReg's, as every stored version of the script runs it; "tuned":
    those that the script defines and does not use."""
    entropy: str = "sum"
    """"sum": the confidence penalty's weight counts for the sum over a batch, as in the code; "mean": for its mean."""


class Cell(NamedTuple):
    """One entry of a table, or one point of a figure."""

    row: str
    column: str
    protocol: Protocol
    make: Make
    weight_decay: float = WEIGHT_DECAY
    paper: tuple[float, float] | None = None
    """Mean and standard deviation of ten seeds in the paper, in percent."""

    @property
    def name(self) -> str:
        """Row and column, as `--cells` matches them."""
        return f"{self.row}/{self.column}"

    def job(self, seed: int, backend: str, data: str) -> Job:
        """The run of a seed."""
        terms = [each for each in (self.make(seed), WeightDecay(self.weight_decay)) if each is not None]
        return Job(self.protocol, sum(terms[1:], terms[0]), seed, backend, data)


def _none(seed: int) -> None:
    return None


def _datagrad(weight: float) -> Make:
    return lambda seed: DataGrad(weight)


def _spectreg(weight: float, choices: Choices, spherical: bool = False) -> Make:
    return lambda seed: SpectReg(weight, seed=seed, draw=choices.draw, spherical=spherical)


def _confidence(weight: float, base: Protocol, choices: Choices) -> Make:
    return lambda seed: ConfidencePenalty(weight * (base.batch if choices.entropy == "sum" else 1))


def table1(base: Protocol, choices: Choices) -> list[Cell]:
    """Table 1: nine cells at 2,000 training images."""
    paper = {
        "Baseline": ((96.99, 0.15), (97.59, 0.13), (97.56, 0.24)),
        "Batchnorm": ((96.89, 0.23), (96.94, 0.27), (96.89, 0.22)),
        "Dropout": ((97.29, 0.19), (97.65, 0.14), (97.98, 0.12)),
    }
    cells = []
    for row, before_last, spectreg, datagrad in (
        ("Dropout", "dropout", 0.01, 50.0),
        ("Baseline", "none", 0.01, 50.0),
        ("Batchnorm", "batchnorm", 0.001, 0.001),
    ):
        protocol = replace(base, before_last=before_last)
        methods: tuple[tuple[str, Make], ...] = (
            ("NoGR", _none),
            ("SpectReg", _spectreg(spectreg, choices)),
            ("DataGrad", _datagrad(datagrad)),
        )
        for (column, make), numbers in zip(methods, paper[row], strict=True):
            cells.append(Cell(row, column, protocol, make, paper=numbers))
    return cells


def figure1_left(base: Protocol, choices: Choices) -> list[Cell]:
    """Figure 1, left: methods by training set size, with dropout. FrobReg has SpectReg's weight, its expectation's."""
    datagrad = (50.0, 50.0, 50.0, 20.0, 20.0, 5.0, 2.0, 2.0)
    spectreg = (0.03, 0.03, 0.03, 0.03, 0.003, 0.01, 0.01, 0.001)
    entropy = (0.01, 0.01, 0.01, 0.01, 0.1, 0.1, 0.01, 0.03)
    tuned = (0.3, 0.03, 1.0, 1.0, 1.0, 1.0, 1.0, 0.3)
    jacreg = spectreg if choices.jacreg == "code" else tuned
    cells = []
    for index, size in enumerate(SIZES):
        protocol = replace(base, train_size=size, before_last="dropout")
        for column, make in (
            ("weight decay", _none),
            ("DataGrad", _datagrad(datagrad[index])),
            ("SpectReg", _spectreg(spectreg[index], choices)),
            ("confidence penalty", _confidence(entropy[index], base, choices)),
            ("JacReg", lambda seed, weight=jacreg[index]: JacReg(weight)),
            ("FrobReg", lambda seed, weight=spectreg[index]: FrobReg(weight)),
        ):
            cells.append(Cell(str(size), column, protocol, make))
    return cells


def variants(base: Protocol, choices: Choices) -> list[Cell]:
    """The family at 2,000 training images with dropout; all weights but the last two are the script's.

    Spherical SpectReg has SpectReg's weight times m = 10, which gives the same expectation; InputFisher, which the
    authors did not have, DataGrad's.
    """
    protocol = replace(base, before_last="dropout")
    methods: tuple[tuple[str, Make], ...] = (
        ("NoGR", _none),
        ("DataGrad", _datagrad(50.0)),
        ("SpectReg", _spectreg(0.03, choices)),
        ("OneHot", lambda seed: OneHot(0.3)),
        ("RandomOneHot", lambda seed: RandomOneHot(0.3, seed=seed)),
        ("JacReg", lambda seed: JacReg(1.0)),
        ("FrobReg", lambda seed: FrobReg(0.03)),
        ("spherical SpectReg", _spectreg(0.3, choices, spherical=True)),
        ("InputFisher", lambda seed: InputFisher(50.0, seed=seed)),
    )
    return [Cell("variants", column, protocol, make) for column, make in methods]


def beyond(base: Protocol, choices: Choices) -> list[Cell]:
    """The regularizers against what people use now, at 500 training images without dropout, with ReLU and with GELU.

    Weights are the paper's for this size; those of the rivals are usual ones. None was tuned here.
    """
    cells = []
    for row, activation in (("ReLU", "relu"), ("GELU", "gelu")):
        plain = replace(base, train_size=500, activation=activation)
        for column, protocol, make, decay in (
            ("weight decay 5e-4", plain, _none, WEIGHT_DECAY),
            ("weight decay 5e-3", plain, _none, 5e-3),
            ("label smoothing 0.1", replace(plain, label_smoothing=0.1), _none, WEIGHT_DECAY),
            ("mixup 0.2", replace(plain, mixup=0.2), _none, WEIGHT_DECAY),
            ("dropout 0.5", replace(plain, before_last="dropout"), _none, WEIGHT_DECAY),
            ("DataGrad 50", plain, _datagrad(50.0), WEIGHT_DECAY),
            ("SpectReg 0.03", plain, _spectreg(0.03, choices), WEIGHT_DECAY),
            ("DataGrad 50, mixup 0.2", replace(plain, mixup=0.2), _datagrad(50.0), WEIGHT_DECAY),
            ("DataGrad 50, dropout 0.5", replace(plain, before_last="dropout"), _datagrad(50.0), WEIGHT_DECAY),
        ):
            cells.append(Cell(row, column, protocol, make, decay))
    return cells


def cost(base: Protocol, choices: Choices) -> list[Cell]:
    """What cheaper settings keep of the gain, with dropout: Table 1's weights, the loss's own pass, a draw per sample.

    "every" charges the penalty at each n-th step, n times as much, "fraction" for a part of each batch, and "jvp" and
    "difference" act along random directions in the input; see :class:`gradreg_core.spec.Term`.
    """
    protocol = replace(base, before_last="dropout")
    settings: tuple[tuple[str, dict[str, Any]], ...] = (
        *((f"every={each}", {"every": each}) for each in (1, 2, 4, 8, 16)),
        *((f"fraction=1/{each}", {"fraction": 1 / each}) for each in (2, 4, 8)),
        ("jvp", {"side": "input"}),
        ("difference", {"side": "input", "method": "difference"}),
    )
    cells = []
    for row, kind, weight in (("DataGrad", DataGrad, 50.0), ("SpectReg", SpectReg, 0.01)):
        shared = replace(protocol, penalty_pass="shared") if row == "SpectReg" else protocol  # noqa: S106
        cells.append(Cell(row, "none", protocol, _none))
        for column, options in settings:
            seeded = row == "SpectReg" or "every" not in options
            cells.append(Cell(row, column, shared, _cheap(kind, weight, options, seeded)))
    return cells


def _cheap(kind: Callable[..., Regularizer], weight: float, options: Mapping[str, Any], seeded: bool) -> Make:
    return lambda seed: kind(weight, **options, **({"seed": seed} if seeded else {}))


EXPERIMENTS: dict[str, Callable[[Protocol, Choices], list[Cell]]] = {
    "table1": table1,
    "figure1-left": figure1_left,
    "variants": variants,
    "beyond": beyond,
    "cost": cost,
}
"""Name -> its cells for a protocol and choices."""


def select(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells whose name matches one of the patterns, in the cells' order; all, if there is no pattern.

    Args:
        cells: to choose from.
        patterns: of names "row/column", with * and ?; upper and lower case are the same.

    Raises:
        InputError: a pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatchcase(cell.name.lower(), pattern.lower()) for cell in cells):
            names = ", ".join(cell.name for cell in cells)
            raise InputError(f"reproduce: --cells {pattern!r} matches none of {names}.")
    return [
        cell
        for cell in cells
        if not patterns or any(fnmatchcase(cell.name.lower(), pattern.lower()) for pattern in patterns)
    ]


def jobs(cells: Sequence[Cell], seeds: Sequence[int], backend: str, data: str) -> list[Job]:
    """The runs of all cells: the first seed of each, then the second of each, so that a part makes a fair table."""
    return [cell.job(seed, backend, data) for seed in seeds for cell in cells]
