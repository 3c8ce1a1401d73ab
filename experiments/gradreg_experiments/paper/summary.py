"""Cells of a table, and their statistics compared with the paper and with the cell without a regularizer."""

from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy import stats

from gradreg_core.presets import WeightDecay
from gradreg_core.spec import Regularizer
from gradreg_experiments.job import Job
from gradreg_experiments.paper.protocol import Protocol
from gradreg_experiments.results import Results

__all__ = ["PAPER_SEEDS", "WEIGHT_DECAY", "Cell", "Make", "Summary", "accuracies", "summarise"]

PAPER_SEEDS = 10
WEIGHT_DECAY = 5e-4

Make = Callable[[int], Regularizer | None]
"""A function: seed of the draws -> regularizer without weight decay."""


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
        """The run with a seed."""
        own, decay = self.make(seed), WeightDecay(self.weight_decay)
        return Job(self.protocol, decay if own is None else own + decay, seed, backend, data)


class Summary(NamedTuple):
    """One cell. Accuracies in percent, differences in points; None if there are too few runs."""

    cell: Cell
    values: dict[int, float]
    """Accuracy by seed."""
    mean: float | None
    deviation: float | None
    difference: float | None
    """The difference from the paper's mean."""
    p_paper: float | None
    """The p of Welch's t-test against the paper's mean, deviation and ten seeds."""
    gain: float | None
    """The gain over the same row's first cell, a mean of differences at equal seeds."""
    p_gain: float | None
    """The p of the two-sided paired t-test by seed."""
    pairs: int = 0
    """The number of seeds that both have."""


def accuracies(
    cell: Cell, seeds: Sequence[int], backend: str, data: str, results: Results, measure: str = "test"
) -> dict[int, float]:
    """Accuracy by seed, of the seeds that have been run."""
    runs = {seed: results.get(cell.job(seed, backend, data).key) for seed in seeds}
    return {seed: float(run["accuracy"][measure]) for seed, run in runs.items() if run is not None}


def summarise(
    cells: Sequence[Cell], seeds: Sequence[int], backend: str, data: str, results: Results, measure: str = "test"
) -> list[Summary]:
    """A summary of each cell, in order; gains are over the first cell of the same row.

    Args:
        cells: cells of one experiment, in whole rows.
        seeds: the seeds to look up.
        backend: the backend whose runs count.
        data: the digest of the data.
        results: the finished runs.
        measure: "test", the authors' test set, or "official", MNIST's own.
    """
    values_of_cells = [accuracies(cell, seeds, backend, data, results, measure) for cell in cells]
    bases: dict[str, dict[int, float]] = {}
    rows = []
    for cell, values in zip(cells, values_of_cells, strict=True):
        base = bases.setdefault(cell.row, values)
        numbers = list(values.values())
        mean = fmean(numbers) if numbers else None
        deviation = stdev(numbers) if len(numbers) > 1 else None
        difference = mean - cell.paper[0] if mean is not None and cell.paper else None
        gains = [values[seed] - base[seed] for seed in values if seed in base] if base is not values else []
        rows.append(
            Summary(
                cell,
                values,
                mean,
                deviation,
                difference,
                _welch(numbers, cell.paper),
                fmean(gains) if gains else None,
                _paired(gains),
                len(gains),
            )
        )
    return rows


def _welch(numbers: list[float], paper: tuple[float, float] | None) -> float | None:
    if paper is None or len(numbers) < 2 or stdev(numbers) == 0:
        return None
    count = len(numbers)
    test = stats.ttest_ind_from_stats(fmean(numbers), stdev(numbers), count, *paper, PAPER_SEEDS, equal_var=False)
    return float(test.pvalue)


def _paired(gains: list[float]) -> float | None:
    if len(gains) < 2 or stdev(gains) == 0:
        return None
    return float(stats.ttest_1samp(gains, 0.0).pvalue)
