"""``python -m gradreg_experiments.evidence.spread``: ways to apply DataGrad at few steps without disturbing Adam."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any

import click
from threadpoolctl import threadpool_limits

from gradreg_core.cli.files import write_text
from gradreg_core.cli.terminal import get_console, out_option, progress_bar
from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad
from gradreg_core.spec import Regularizer
from gradreg_experiments.data.mnist import MNIST_DIGEST, load, split_files
from gradreg_experiments.evidence.study import points, render_versions, table
from gradreg_experiments.evidence.summary import Gain
from gradreg_experiments.evidence.ways import PROTOCOL, WAYS, Way, train
from gradreg_experiments.folder import held
from gradreg_experiments.job import Job
from gradreg_experiments.paper.cells import no_penalty
from gradreg_experiments.paper.run import image_plan
from gradreg_experiments.paper.summary import Cell, Make, accuracies
from gradreg_experiments.results import Results
from gradreg_experiments.runner import versions
from gradreg_experiments.shapes import digest
from gradreg_experiments.trainers import load_trainer
from gradreg_experiments.weights.summary import interval

__all__ = ["Run", "command", "make_page"]

_VERSION = 1
_WEIGHT = 50.0
_SEEDS, _TUNING_SEED, _TUNING_STEPS = (1, 2, 3), 4, 1001
_FAILED = 50
"""A short run below this accuracy in percent has failed; a way with only failed runs is not trained in full."""
_TUNED = [way for way in WAYS if way.meaning]


@dataclass(frozen=True)
class Run:
    """One training."""

    way: str
    every: int
    setting: float
    steps: int
    seed: int

    @property
    def key(self) -> str:
        """A hash of everything that determines the run."""
        return digest({"experiment": "spread", "version": _VERSION, **asdict(self)})


def _result(run: Run, way: Way, directory: Path) -> dict[str, Any]:
    """Accuracies in percent: "test" on the authors' test set, "official" on MNIST's own."""
    start = time.process_time()
    protocol = replace(PROTOCOL, steps=run.steps)
    data = split_files(load(directory), protocol.train_size, run.seed, shared=False)
    plan = image_plan(Job(protocol, DataGrad(_WEIGHT), run.seed, "jax", MNIST_DIGEST), data)
    params, trainer = train(plan, way, run.setting), load_trainer("jax")
    parts = (("test", data.held_out), ("official", data.official))
    accuracy = {
        name: 100 * trainer.count_right(plan.network, params, part.x, part.y, 500) / len(part.y) for name, part in parts
    }
    seconds = round(time.process_time() - start, 1)
    return {
        "key": run.key,
        **asdict(run),
        "accuracy": accuracy,
        "cpu_seconds": seconds,
        "versions": versions("jax"),
    }


def _tuning(way: Way) -> list[Run]:
    return [Run(way.name, way.every, setting, _TUNING_STEPS, _TUNING_SEED) for setting in way.settings]


def _full(way: Way, setting: float) -> list[Run]:
    return [Run(way.name, way.every, setting, PROTOCOL.steps, seed) for seed in _SEEDS]


def _official(results: Results, run: Run) -> float | None:
    kept = results.get(run.key)
    return None if kept is None else float(kept["accuracy"]["official"])


def _chosen(results: Results) -> list[tuple[Way, float]]:
    """Each way that has not failed, with its best setting in the short runs; empty until all of these are done."""
    own = {way: {run.setting: _official(results, run) for run in _tuning(way)} for way in _TUNED}
    known = {way: {s: v for s, v in values.items() if v is not None} for way, values in own.items()}
    if any(len(known[way]) < len(way.settings) for way in _TUNED):
        return []
    best = [(way, max(values, key=values.__getitem__)) for way, values in known.items()]
    return [(way, setting) for way, setting in best if known[way][setting] >= _FAILED]


def _wanted(results: Results) -> list[Run]:
    """All runs: the short ones, each way in full with the first seed, and the best ways with the other seeds."""
    short = [run for way in WAYS for run in _tuning(way)]
    full = [_full(*own) for own in _chosen(results)]
    scores = [_official(results, runs[0]) for runs in full]
    known = [score for score in scores if score is not None]
    best = full[scores.index(max(known))][1:] if full and len(known) == len(full) else []
    return [*short, *(runs[0] for runs in full), *best]


@click.command(name="spread", help="The experiment 'spread': runs that have a result are not repeated.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="A folder with MNIST's four IDX files.")
@click.option("--minutes", type=click.FloatRange(min=0), default=240.0, help="No new run after this many minutes.")
@out_option(default=Path("out") / "spread")
@click.option("--paper", type=click.Path(path_type=Path), default=Path("docs/paper"), help="Results of reproduce cost.")
@click.option("--page-only", is_flag=True, help="Train nothing; write the page from existing results.")
def command(data_dir: Path | None, minutes: float, out: Path, paper: Path, page_only: bool) -> None:
    """Train what is missing, and write the results and the page."""
    with held(out):
        results = Results(out)
        if not page_only:
            _run_missing(data_dir, minutes, results)
        results.export()
    write_text(out / "README.md", make_page(results, Results(paper)))
    get_console().print(f"Wrote {out / 'README.md'}.")


def _run_missing(directory: Path | None, minutes: float, results: Results) -> None:
    if directory is None:
        raise InputError("spread: expected --data-dir with MNIST's four files, got none; or pass --page-only.")
    end, ways = time.monotonic() + 60 * minutes, {way.name: way for way in WAYS}
    with progress_bar("runs", len(_wanted(results))) as bar, threadpool_limits(1):
        while missing := [run for run in _wanted(results) if run.key not in results]:
            if time.monotonic() >= end:
                return
            results.add(_result(missing[0], ways[missing[0].way], directory))
            bar.advance()


def _whatever_the_seed(reg: Regularizer) -> Make:
    return lambda seed: reg


def _references() -> list[tuple[str, float, Cell]]:
    """From the paper's experiment `cost`: (name, plain steps by count, cell)."""
    every = {1: DataGrad(_WEIGHT)} | {n: DataGrad(_WEIGHT, every=n) for n in (2, 4, 8, 16)}
    rows = [("no penalty", 1.0, Cell("DataGrad", "none", PROTOCOL, no_penalty))]
    for n, reg in every.items():
        cell = Cell("DataGrad", f"every={n}", PROTOCOL, _whatever_the_seed(reg))
        rows.append((f"`every={n}`", replace(WAYS[0], every=n).cost, cell))
    return rows


def _row(name: str, setting: str, cost: float, own: Mapping[int, float], none: Mapping[int, float]) -> list[str]:
    differences = [value - none[seed] for seed, value in own.items() if seed in none]
    gained = "-"
    if len(differences) == 1:
        gained = f"{differences[0]:+.2f}"
    elif differences and any(differences):
        gained = points(Gain(fmean(differences), interval(differences)))
    return [name, setting, f"{cost:.2f}", str(len(own)), f"{fmean(own.values()):.2f}", gained]


def make_page(results: Results, paper: Results) -> str:
    """The page as Markdown.

    Args:
        results: results of this experiment.
        paper: results of ``gradreg reproduce cost``, with the same images, initial weights, batches and masks.
    """
    whole = [(name, cost, accuracies(cell, _SEEDS, "jax", MNIST_DIGEST, paper)) for name, cost, cell in _references()]
    none = whole[0][2]
    rows = [_row(name, "", cost, own, none) for name, cost, own in whole if own]
    for way, setting in _chosen(results):
        kept = {run.seed: results.get(run.key) for run in _full(way, setting)}
        own = {seed: float(run["accuracy"]["test"]) for seed, run in kept.items() if run is not None}
        if own:
            rows.append(_row(f"{way.name}, n = {way.every}", f"{setting:g}", way.cost, own, none))
    short = [
        [way.name, str(way.every), way.meaning, f"{run.setting:g}" if way.meaning else "", f"{score:.1f}"]
        for way in WAYS
        for run in _tuning(way)
        if (score := _official(results, run)) is not None
    ]
    template = (files(__package__) / "spread.md").read_text(encoding="utf-8")
    return Template(template).substitute(
        full=table(("", "setting", "plain steps", "seeds", "accuracy, %", "gain"), rows),
        short=table(("", "n", "setting", "", "accuracy, %"), short),
        minutes=f"{sum(result['cpu_seconds'] for result in results) / 60:.0f}",
        versions="; ".join(sorted({render_versions(result) for result in results})) or "-",
    )


if __name__ == "__main__":
    command()
