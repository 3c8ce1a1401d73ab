"""Whether the search for a weight finds what a full grid finds: ``python -m gradreg_experiments.weights.searching``.

The networks, data and training are the demo's. A search sees one training set and the validation part. The grid has two
weights per decade, and the searches reuse its runs; other weights that they try are trained for them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import click

import gradreg_core
from gradreg_core.cli.files import write_text
from gradreg_core.cli.terminal import get_console, out_option
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_core.tuning.trials import SearchResult
from gradreg_experiments.data.digits import Dataset, draw, load_dataset, standardise
from gradreg_experiments.demo.recipe import Recipe
from gradreg_experiments.job import Job
from gradreg_experiments.plan import Plan, Trained
from gradreg_experiments.results import Results
from gradreg_experiments.runner import run_missing, train_jobs
from gradreg_experiments.trainers import Tick, Trainer, silent

__all__ = ["SUBJECTS", "Protocol", "Row", "Subject", "compare", "grid", "main", "run_jobs", "search_once", "table"]

_CHUNK = 500
"""The number of images evaluated at a time."""
_POINTS = 200
"""The number of validation images in the mean of the Jacobian's norm."""
_TRAININGS = 8


@dataclass(frozen=True)
class Protocol:
    """The training recipe and the number of images."""

    train_size: int
    recipe: Recipe = field(default_factory=Recipe)

    @property
    def steps(self) -> int:
        """Of training."""
        return self.recipe.steps


@dataclass(frozen=True)
class Subject:
    """A regularizer on a data set, and the start of its searches."""

    data: str
    """"digits" or "MNIST"."""
    protocol: Protocol
    penalty: type[SpectReg] | type[DataGrad]
    middle: int
    """The power of ten in the middle of the grid."""
    seeds: int
    starts: tuple[int, ...] = (-1, 0, 1)
    """The starts, as powers of ten from the middle of the grid."""
    decades: int = 2
    """The width of the grid in decades, on both sides of its middle."""
    backend: str = "torch"

    def regularizer(self, weight: float, seed: int) -> Regularizer:
        """The regularizer of one run."""
        return self.penalty(weight, seed=seed)


SUBJECTS = (
    Subject("digits", Protocol(100), SpectReg, -2, seeds=8),
    Subject("digits", Protocol(100), DataGrad, 0, seeds=8),
    Subject("MNIST", Protocol(500), SpectReg, -2, seeds=4),
)


def grid(subject: Subject) -> list[float]:
    """Two weights per decade, to three digits, as the search rounds them."""
    halves = range(-2 * subject.decades, 2 * subject.decades + 1)
    return [float(f"{10 ** (subject.middle + half / 2):.3g}") for half in halves]


def run_jobs(jobs: Sequence[Job], data: Dataset, tick: Tick = silent) -> list[dict[str, Any]]:
    """Train jobs, and evaluate accuracies on the validation and the test part and the norm on the validation part."""
    assert data.test is not None
    parts = {
        job.seed: standardise(draw(data.pool, job.protocol.train_size, job.seed), data.validation, data.test)
        for job in jobs
    }

    def plan(job: Job) -> Plan:
        protocol: Protocol = job.protocol
        return protocol.recipe.plan(parts[job.seed][0], job.regularizer, job.seed)

    def evaluate(trainer: Trainer, job: Job, plan: Plan, trained: Trained) -> dict[str, Any]:
        _, validation, test = parts[job.seed]
        network, params = plan.network, trained.params
        right = {
            name: trainer.count_right(network, params, part.x, part.y, _CHUNK) / len(part.y)
            for name, part in (("validation", validation), ("test", test))
        }
        norm = float(trainer.jacobian_norms(network, params, validation.x[:_POINTS]).mean())
        return right | {"norm": norm}

    return train_jobs(jobs, [plan(job) for job in jobs], tick, evaluate)


def _job(subject: Subject, regularizer: Regularizer | None, seed: int) -> Job:
    return Job(subject.protocol, regularizer, seed, subject.backend, subject.data, kind="searching")


def _run(jobs: Sequence[Job], data: Dataset, results: Results, workers: int) -> list[dict[str, Any]]:
    run_missing(jobs, run_jobs, data, results, workers=workers, words=f"{jobs[0].data}: ")
    return [results[job.key] for job in jobs]


@dataclass(frozen=True)
class Row:
    """One search beside the full grid, on one training set."""

    subject: Subject
    start: float
    seed: int
    trainings: int
    error: float
    """The standard error of the grid's best accuracy on the validation part."""
    chosen: dict[str, Any]
    """The result of the run with the weight that the search chose."""
    best: dict[str, Any]
    """The test accuracy of the run that is best on the validation part, no regularizer included."""
    none: dict[str, Any]
    """The test accuracy of the run without a regularizer."""

    @property
    def is_within(self) -> bool:
        """Whether the chosen weight is within one standard error of the grid's best."""
        return bool(self.chosen["validation"] >= self.best["validation"] - self.error)


def compare(subject: Subject, data: Dataset, results: Results, workers: int = 1) -> Iterator[Row]:
    """Run the grid and the searches of a subject; one row per search."""
    seeds, weights = range(subject.seeds), grid(subject)
    jobs = {
        seed: [
            _job(subject, None, seed),
            *(_job(subject, subject.regularizer(weight, seed), seed) for weight in weights),
        ]
        for seed in seeds
    }
    _run([job for own in jobs.values() for job in own], data, results, workers)
    for seed in seeds:
        runs = [results[job.key] for job in jobs[seed]]
        best = max(runs, key=lambda run: run["validation"])
        error = math.sqrt(best["validation"] * (1 - best["validation"]) / len(data.validation.y))
        for start in subject.starts:
            weight = 10.0 ** (subject.middle + start)
            search = search_once(subject, weight, [seed], data, results)
            chosen = results[_job(subject, search.regularizer, seed).key]
            yield Row(subject, weight, seed, len(search.candidates), error, chosen, best, runs[0])


def search_once(subject: Subject, start: float, seeds: Sequence[int], data: Dataset, results: Results) -> SearchResult:
    """A search over training sets, served from existing runs."""

    def fit(reg: Regularizer | None, seed: int) -> tuple[float, float]:
        own = None if reg is None else subject.regularizer(reg.terms[0].weight_at(0), seed)
        (result,) = _run([_job(subject, own, seed)], data, results, 1)
        return result["validation"], result["norm"]

    return gradreg_core.search(
        fit,
        subject.regularizer(start, seeds[0]),
        trainings=_TRAININGS * len(seeds),
        seeds=seeds,
        validation_size=len(data.validation.y),
        progress=False,
    )


def table(rows: Sequence[Row]) -> str:
    """A line per subject and start, in Markdown."""
    head = "| data | regularizer, start | within one error | trainings | none | search | grid |"
    lines = [head, "| --- | --- | ---: | ---: | ---: | ---: | ---: |"]
    for subject, start in dict.fromkeys((row.subject, row.start) for row in rows):
        own = [row for row in rows if (row.subject, row.start) == (subject, start)]
        within = sum(row.is_within for row in own)
        means = [100 * fmean(getattr(row, name)["test"] for row in own) for name in ("none", "chosen", "best")]
        data = f"{subject.data}, {subject.protocol.train_size}"
        cells = [data, f"{subject.penalty.__name__}({start:g})", f"{within} of {len(own)}"]
        cells += [f"{fmean(row.trainings for row in own):.1f}", *(f"{mean:.2f}" for mean in means)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command()
@click.option("--data-dir", type=click.Path(path_type=Path), help="A folder with MNIST's four files.")
@out_option(default=Path("out/searching"))
@click.option("--workers", type=click.IntRange(0), default=1, show_default=True, help="Processes; 0: one per core.")
def main(data_dir: Path | None, out: Path, workers: int) -> None:
    """Compare the search for a weight with a full grid, and write results.jsonl, table.txt and search.png.

    The picture shows one search over all training sets of the first subject.
    Without --data-dir, MNIST is left out. Runs in the folder are not repeated.
    """
    results, rows = Results(out), list[Row]()
    for subject in SUBJECTS:
        if subject.data == "MNIST" and data_dir is None:
            continue
        data = load_dataset(data_dir if subject.data == "MNIST" else None)
        rows += compare(subject, data, results, workers)
        if subject is SUBJECTS[0]:
            search = search_once(subject, 10.0**subject.middle, range(subject.seeds), data, results)
            search.plot(out / "search.png")
    results.export()
    write_text(out / "table.txt", f"{table(rows)}\n")
    get_console().print(table(rows))


if __name__ == "__main__":
    main()
