"""Experiments whose results are cells of a table: a protocol and a regularizer per cell, trained with several seeds."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_experiments.data.mnist import HELD_OUT
from gradreg_experiments.job import Job
from gradreg_experiments.paper import tables
from gradreg_experiments.paper.experiment import PAGE_SEEDS, Experiment, Page, Report, Settings
from gradreg_experiments.paper.protocol import Choices, Protocol
from gradreg_experiments.paper.run import run_jobs
from gradreg_experiments.paper.summary import Cell, Make, Summary, summarise
from gradreg_experiments.results import Results
from gradreg_experiments.runner import RunJobs

__all__ = ["CellExperiment", "cell_jobs", "datagrad", "no_penalty", "select", "significant", "spectreg"]


def no_penalty(seed: int) -> None:
    """The regularizer of the cells without a penalty."""


def datagrad(weight: float) -> Make:
    """DataGrad, the same for all seeds."""
    return lambda seed: DataGrad(weight)


def spectreg(weight: float, choices: Choices, spherical: bool = False) -> Make:
    """SpectReg, with directions drawn from the seed."""
    return lambda seed: SpectReg(weight, seed=seed, draw=choices.draw, spherical=spherical)


def select(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells whose name matches one of the patterns, in order; all cells if there is no pattern.

    Args:
        cells: the cells to choose from.
        patterns: patterns of "row/column", with * and ?; case is ignored.

    Raises:
        InputError: a pattern matches no cell.
    """

    def matches(cell: Cell, pattern: str) -> bool:
        return fnmatchcase(cell.name.lower(), pattern.lower())

    for pattern in patterns:
        if not any(matches(cell, pattern) for cell in cells):
            names = ", ".join(cell.name for cell in cells)
            raise InputError(f"reproduce: --cells {pattern!r} matches none of {names}.")
    return [cell for cell in cells if not patterns or any(matches(cell, pattern) for pattern in patterns)]


def cell_jobs(cells: Sequence[Cell], seeds: Sequence[int], backend: str, data: str) -> list[Job]:
    """The runs of all cells: the first seed of each, then the second of each, so that a partial table is fair."""
    return [cell.job(seed, backend, data) for seed in seeds for cell in cells]


@dataclass(frozen=True, kw_only=True)
class CellExperiment(Experiment):
    """An experiment of cells, with a table and a figure per backend. See :class:`Experiment`."""

    cells: Callable[[Protocol, Choices], list[Cell]]
    draw: Callable[[Path, str, Sequence[Summary]], list[Path]]
    """(path without ending, title, summaries) -> the figure's files."""
    verdict: Callable[[Sequence[Summary]], str] | None = None
    """The outcome in a few lines, for its own page and the first page; None for the table alone."""
    remark: str = ""
    """The text at the end of the page."""
    run_jobs: RunJobs = run_jobs

    def all_cells(self, settings: Settings) -> list[Cell]:
        """The cells for these settings, whether or not they are to be run."""
        protocol = settings.protocol
        return self.cells(replace(protocol, steps=settings.steps or protocol.steps), settings.choices)

    def jobs(self, settings: Settings) -> list[Job]:
        cells = select(self.all_cells(settings), settings.cells)
        return cell_jobs(cells, settings.seeds, settings.backend, settings.data)

    def report(self, settings: Settings, report: Report) -> None:
        measure = "test" if settings.measure == "held-out" else "official"
        cells = self.all_cells(settings)
        rows = summarise(cells, settings.seeds, settings.backend, settings.data, report.results, measure)
        self.tables(settings, report, rows)

    def tables(self, settings: Settings, report: Report, rows: Sequence[Summary]) -> None:
        """Show the table, and write it with its figure."""
        stem, title = self.named(settings)
        tables.print_summaries(report.console, title, rows)
        images = f"the last {HELD_OUT:,} training images" if settings.measure == "held-out" else "MNIST's test images"
        note = (
            f"Accuracy on {images}. p: Welch's t-test against the paper's mean, sd and ten seeds. Gain: over the row's "
            "first cell at equal seeds, with the p of the paired t-test."
        )
        report.console.print(note, style="dim")
        path = report.write(stem, title, tables.grid(rows), tables.markdown(*tables.table(rows)), note)
        figures = self.draw(path, title, rows) if any(row.values for row in rows) else []
        report.wrote([report.out / f"{stem}.md", *figures])

    def named(self, settings: Settings) -> tuple[str, str]:
        """The files' common name and the title, with the unusual settings."""
        usual = _plain(Settings())
        other = {name: value for name, value in _plain(settings).items() if value != usual[name]}
        words = [f"{name}-{value}".replace("_", "-") for name, value in other.items()]
        shown = ", ".join(f"{name}={value}" for name, value in other.items())
        return (
            "-".join([self.name, settings.backend, *words]),
            f"{self.title}, {settings.backend}" + (f" ({shown})" if shown else ""),
        )

    def section(self, page: Page) -> list[str]:
        blocks: list[str] = []
        for backend in page.backends:
            rows = self._summaries(page, backend)
            keys = {row.cell.job(seed, backend, Settings.data).key for row in rows for seed in row.values}
            if keys - page.shown:  # a framework with only another table's runs gets no section
                blocks += [f"## {backend}", *self.blocks(page, rows, backend)]
            page.shown |= keys
        return [*blocks, self.remark] if blocks else []

    def verdicts(self, page: Page) -> str:
        rows = max((self._summaries(page, backend) for backend in page.backends), key=_runs)
        return self.verdict(rows) if self.verdict is not None and _runs(rows) else ""

    def blocks(self, page: Page, rows: Sequence[Summary], backend: str) -> list[str]:
        """The blocks of one backend."""
        blocks = [tables.markdown(*tables.table(rows))]
        if self.verdict is not None:
            blocks = [tables.grid(rows), self.verdict(rows), *blocks]
        paper = any(row.cell.paper for row in rows)
        against = "p: Welch's t-test against the paper's mean, deviation and ten seeds. " if paper else ""
        return [
            *blocks,
            f"Accuracy on the last {HELD_OUT:,} training images. {against}"
            "Gain: at equal seeds, with the p of the paired t-test.",
            page.picture(f"{self.name}-{backend}", self.title),
            _robustness(rows, backend, page.results),
        ]

    def coverage(self, page: Page) -> list[tuple[str, ...]]:
        lines: list[tuple[str, ...]] = []
        for backend in page.backends:
            counts = [len(row.values) for row in self._summaries(page, backend)]
            done = f"{sum(counts)} of {len(counts) * len(PAGE_SEEDS)}"
            lines.append((self.name, backend, done, str(min(counts))))
        return lines

    def _summaries(self, page: Page, backend: str) -> list[Summary]:
        return summarise(self.cells(Protocol(), Choices()), PAGE_SEEDS, backend, Settings.data, page.results)


def _runs(rows: Sequence[Summary]) -> int:
    """The number of runs in the rows."""
    return sum(len(row.values) for row in rows)


def _plain(settings: Settings) -> dict[str, Any]:
    """The settings in a file's name."""
    protocol, choices = asdict(settings.protocol), asdict(settings.choices)
    names = ("network", "standardise", "penalty_pass")
    plain = {name: protocol[name] for name in names} | choices
    return plain | {"steps": settings.steps, "measure": settings.measure}


def significant(row: Summary) -> bool:
    """Whether the gain is significant at 5 %."""
    return row.p_gain is not None and row.p_gain < 0.05


def _robustness(rows: Sequence[Summary], backend: str, results: Results) -> str:
    lines = []
    names: list[str] = []
    for row in rows:
        runs = [results.get(row.cell.job(seed, backend, Settings.data).key) for seed in row.values]
        tests = [run["robustness"] for run in runs if run and "robustness" in run]
        if not tests:
            continue
        kinds = [(kind, size) for kind in ("noise", "fgsm", "pgd") for size in tests[0][kind]]
        names = ["norm", "clean", *(f"{kind} {size}" for kind, size in kinds)]
        norms = [run["jacobian_frobenius"] for run in runs if run and run.get("jacobian_frobenius") is not None]
        norm = f"{fmean(norms):.2f}" if norms else "-"
        means = [fmean(test["clean"] for test in tests)]
        means += [fmean(test[kind][size] for test in tests) for kind, size in kinds]
        lines.append((row.cell.name, str(len(tests)), norm, *(f"{mean:.1f}" for mean in means)))
    if not lines:
        return ""
    return (
        "The mean norm of the logits' Jacobian at 500 test images, and the accuracy in percent of the first 1,000 in "
        "Gaussian noise of that deviation and gradient attacks of that size (pixels from 0 to 1; FGSM: one step, PGD: "
        "ten):\n\n" + tables.markdown(("cell", "seeds", *names), lines)
    )
