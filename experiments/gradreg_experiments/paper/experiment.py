"""The type of an experiment: a record with jobs, a report of them, and a page."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path

from rich.console import Console

from gradreg_core.cli.files import write_text
from gradreg_experiments.data.mnist import MNIST_DIGEST
from gradreg_experiments.job import Job
from gradreg_experiments.paper.protocol import Choices, Protocol
from gradreg_experiments.results import Results
from gradreg_experiments.runner import RunJobs

__all__ = ["PAGE_SEEDS", "Experiment", "Page", "Report", "Settings", "text"]

PAGE_SEEDS = range(1, 11)
"""The seeds on the pages, ten as in the paper."""


@dataclass(frozen=True)
class Settings:
    """The settings of an experiment: the options of the command."""

    backend: str = "torch"
    seeds: Sequence[int] = PAGE_SEEDS
    data: str = MNIST_DIGEST
    """The digest of MNIST."""
    protocol: Protocol = field(default_factory=Protocol)
    choices: Choices = field(default_factory=Choices)
    steps: int | None = None
    """A smaller number of steps than usual."""
    cells: Sequence[str] = ()
    """Patterns of the cells to run; all if empty."""
    measure: str = "held-out"
    """The accuracy shown: "held-out" or "official"."""
    train: bool = True
    """Whether to run or measure anything."""


@dataclass(frozen=True)
class Report:
    """The destination of an experiment's report."""

    out: Path
    results: Results
    console: Console

    def write(self, stem: str, title: str, *blocks: str) -> Path:
        """Write tables to ``stem.md``; returns the path without its ending, for figures."""
        path = self.out / f"{stem}.md"
        write_text(path, "\n\n".join([f"# {title}", *blocks]) + "\n")
        return self.out / stem

    def wrote(self, paths: Sequence[Path]) -> None:
        """Print which files were written."""
        self.console.print(f"Wrote {', '.join(map(str, paths))}.")


@dataclass
class Page:
    """The inputs of the pages, and their contents so far."""

    out: Path
    """The folder with the figures."""
    results: Results
    backends: Sequence[str]
    shown: set[str] = field(default_factory=set)
    """Keys of the runs already on a page."""

    def picture(self, name: str, title: str) -> str:
        """The figure `name`, if there is one."""
        return f"![{title}]({name}.svg)" if (self.out / f"{name}.svg").exists() else ""

    def first_picture(self, name: str, title: str) -> str:
        """The experiment's figure, from the first framework that has one."""
        pictures = (self.picture(stem, title) for stem in (name, *(f"{name}-{backend}" for backend in self.backends)))
        return next(filter(None, pictures), "")


@dataclass(frozen=True, kw_only=True)
class Experiment(ABC):
    """One experiment. A module of :mod:`gradreg_experiments.paper.experiments` has one, named ``EXPERIMENT``."""

    name: str
    """The name in the command."""
    title: str
    """The title of the page, the table and the figure."""
    place: int
    """The position among the pages."""
    run_jobs: RunJobs
    needs_data: bool = True
    """Whether the experiment trains on MNIST."""

    @abstractmethod
    def jobs(self, settings: Settings) -> list[Job]:
        """The runs, in the order of execution."""

    @abstractmethod
    def report(self, settings: Settings, report: Report) -> None:
        """Write tables and figures of the existing runs."""

    @abstractmethod
    def section(self, page: Page) -> list[str]:
        """The blocks of the experiment's page below its title; none if nothing has been run."""

    def verdicts(self, page: Page) -> str:
        """The outcome in a few lines, for the first page."""
        return ""

    def coverage(self, page: Page) -> list[tuple[str, ...]]:
        """Rows of the first page's last table: experiment, framework, runs done, fewest seeds of a cell."""
        return []


def text(name: str) -> str:
    """The text `name` of the pages, from the folder ``texts``."""
    return (files(__package__) / "texts" / f"{name}.md").read_text(encoding="utf-8").rstrip("\n")
