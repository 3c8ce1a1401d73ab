"""Shared by all experiments but the one on small data: a record, a resumable command, and paired gains.

A cell is a condition and a method. All of its settings train with all seeds; it is one line of the results.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any

import click
from threadpoolctl import threadpool_limits

from gradreg_core.cli.files import write_text
from gradreg_core.cli.terminal import get_console, out_option, progress_bar
from gradreg_experiments.evidence.summary import Gain
from gradreg_experiments.folder import held
from gradreg_experiments.paper.tables import markdown
from gradreg_experiments.results import Results
from gradreg_experiments.runner import versions
from gradreg_experiments.weights.summary import interval

__all__ = [
    "Cells",
    "Condition",
    "Method",
    "Study",
    "best",
    "command",
    "factor",
    "gain",
    "make_page",
    "points",
    "render",
    "shown_gain",
    "table",
    "times",
    "values",
]

Condition = tuple[str, int]
"""The task, and the number of its training samples."""
Cells = dict[Condition, dict[str, Mapping[str, Any]]]
"""Existing results by condition and method."""


@dataclass(frozen=True)
class Method:
    """A training method and its settings."""

    name: str
    meaning: str
    """The meaning of a setting's numbers."""
    settings: tuple[tuple[float, ...], ...]


Part = tuple[Method, Sequence[int]]
"""A unit of training: a method with some of its settings, and seeds."""


@dataclass(frozen=True)
class Study:
    """An experiment."""

    name: str
    """The name of its module, its page's template and its folder."""
    version: int
    """Increased when the same record would give different results."""
    conditions: tuple[Condition, ...]
    methods: tuple[Method, ...]
    """The methods; gains are over the first."""
    seeds: int
    steps: int
    larger_is_better: bool
    train: Callable[[Condition, Method, Sequence[int], Path | None], Mapping[str, Any]]
    """Trains a condition, a method and seeds, with --data-dir. Returns "tried", a list with a setting's "setting",
    "validation" (by seed) and "test" (by measure, by seed), and the "flops" of one network's step."""
    texts: Callable[["Study", Cells], Mapping[str, str]]
    """The template's values that :func:`make_page` does not provide."""
    data: str = ""
    """The content of --data-dir; empty if it is not needed."""
    whole: bool = True
    """Whether to show a condition only after all methods have been run on it, or each method beside the first."""
    one_by_one: bool = False
    """Whether a part is a single training, with one setting and one seed, and not a whole cell."""
    searched: int | None = None
    """With `one_by_one`, the seeds that choose a setting; the others train only the chosen one. None for all."""
    more_seeds: Mapping[Condition, int] = field(default_factory=dict)
    """The numbers of seeds of conditions for which it is not `seeds`."""

    def count_seeds(self, condition: Condition) -> int:
        """The number of seeds of a condition."""
        return self.more_seeds.get(condition, self.seeds)

    def count_parts(self, condition: Condition, method: Method) -> int:
        """The number of parts of a cell."""
        seeds = self.count_seeds(condition)
        searched = seeds if self.searched is None else self.searched
        return len(method.settings) * searched + seeds - searched if self.one_by_one else 1

    def parts(self, results: Results, condition: Condition, method: Method) -> list[Part]:
        """The parts in which a cell is trained and stored: a method with some of its settings, and seeds.

        Parts with only the chosen setting follow once the others have results.
        """
        seeds = range(self.count_seeds(condition))
        if not self.one_by_one:
            return [(method, seeds)]
        search: list[Part] = [
            (_only(method, setting), (seed,)) for setting in method.settings for seed in seeds[: self.searched]
        ]
        if self.searched is None or any(self.key(condition, *part) not in results for part in search):
            return search
        chosen = tuple(best(self, self._joined(results, condition, search))["setting"])
        return [*search, *((_only(method, chosen), (seed,)) for seed in seeds[self.searched :])]

    def key(self, condition: Condition, method: Method, seeds: Sequence[int]) -> str:
        """A hash of everything that determines a part."""
        runs = list(seeds) if self.one_by_one else len(seeds)
        own = [self.name, self.version, condition, method.name, method.settings, runs, self.steps]
        return hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]

    def cell(self, results: Results, condition: Condition, method: Method) -> Mapping[str, Any] | None:
        """The result of a cell, merged from its parts, or None if one is missing."""
        parts = self.parts(results, condition, method)
        if any(self.key(condition, *part) not in results for part in parts):
            return None
        return self._joined(results, condition, parts)

    def _joined(self, results: Results, condition: Condition, parts: Sequence[Part]) -> Mapping[str, Any]:
        kept = [results.get(self.key(condition, *part)) for part in parts]
        known = [part for part in kept if part is not None]
        by_setting: dict[tuple[float, ...], list[Mapping[str, Any]]] = {}
        for run in (run for part in known for run in part["tried"]):
            by_setting.setdefault(tuple(run["setting"]), []).append(run)
        tried = [
            {
                "setting": list(setting),
                "validation": [value for run in runs for value in run["validation"]],
                "test": {name: [value for run in runs for value in run["test"][name]] for name in runs[0]["test"]},
            }
            for setting, runs in by_setting.items()
        ]
        return {**known[0], "tried": tried}

    def cells(self, results: Results) -> Cells:
        """The results of the conditions on which all methods have been run, or the first method if `whole` is false."""
        cells: Cells = {}
        for condition in self.conditions:
            own = {method.name: self.cell(results, condition, method) for method in self.methods}
            known = {name: result for name, result in own.items() if result is not None}
            if len(known) == len(own) or (not self.whole and self.methods[0].name in known):
                cells[condition] = known
        return cells


def _only(method: Method, setting: tuple[float, ...]) -> Method:
    return replace(method, settings=(setting,))


def best(study: Study, result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The setting with the best mean over the seeds that choose it on validation samples; the first of equals."""
    sign = 1 if study.larger_is_better else -1
    chosen: Mapping[str, Any] = max(result["tried"], key=lambda run: sign * fmean(run["validation"][: study.searched]))
    return chosen


def values(study: Study, result: Mapping[str, Any], measure: str) -> Sequence[float]:
    """A measure on test samples by seed, at the chosen setting."""
    own: Sequence[float] = best(study, result)["test"][measure]
    return own


def gain(study: Study, first: Mapping[str, Any], second: Mapping[str, Any], measure: str) -> Gain:
    """The mean paired difference of a measure with its 95 % interval, each result at its own chosen setting."""
    return _paired(values(study, first, measure), values(study, second, measure))


def factor(study: Study, first: Mapping[str, Any], second: Mapping[str, Any], measure: str) -> Gain:
    """The same for the logarithms."""
    logs = ([math.log(value) for value in values(study, result, measure)] for result in (first, second))
    return _paired(*logs)


def _paired(first: Sequence[float], second: Sequence[float]) -> Gain:
    differences = [one - other for one, other in zip(first, second, strict=True)]
    return Gain(fmean(differences), interval(differences))


def times(own: Gain) -> str:
    """A factor with its interval as text, bold if that excludes one."""
    low, middle, high = (math.exp(own.mean + side * own.half) for side in (-1, 0, 1))
    text = f"{middle:.2f} ({low:.2f} to {high:.2f})"
    return f"**{text}**" if own.sign else text


def points(own: Gain) -> str:
    """A gain as text, bold if its interval excludes zero."""
    text = f"{own.mean:+.2f} ± {own.half:.2f}"
    return f"**{text}**" if own.sign else text


def shown_gain(study: Study, first: Mapping[str, Any], second: Mapping[str, Any], measure: str) -> str:
    """A gain as text, with the setting that the first result chose."""
    return f"{points(gain(study, first, second, measure))} ({render(best(study, first)['setting'])})"


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, or a note that there are no results."""
    return markdown(headings, rows) if rows else "Not run yet."


def render(setting: Sequence[float]) -> str:
    """A setting as text."""
    return ", ".join(f"{number:g}" for number in setting)


def make_page(study: Study, results: Results) -> str:
    """The page as Markdown, with tables from the results."""
    cells = study.cells(results)
    missing = [
        f"{task}, {count}" for task, count in study.conditions if len(cells.get((task, count), {})) < len(study.methods)
    ]
    methods = [
        [method.name, method.meaning, "; ".join(map(render, method.settings))]
        for method in study.methods
        if method.meaning
    ]
    own = {
        "missing": f"Not run, or not with every method: {'; '.join(missing)}." if missing else "All cells are run.",
        "minutes": f"{sum(result['cpu_seconds'] for result in results) / 60:.0f}",
        "versions": "; ".join(sorted({render_versions(result) for result in results})) or "-",
        "methods": markdown(("method", "setting", "values"), methods),
        "seeds": str(study.seeds),
        "steps": f"{study.steps:,}",
    }
    template = (files(__package__) / f"{study.name}.md").read_text(encoding="utf-8")
    return Template(template).substitute(own, **study.texts(study, cells))


def render_versions(result: Mapping[str, Any]) -> str:
    """The versions behind a result."""
    return ", ".join(f"{name} {number}" for name, number in result["versions"].items())


def command(study: Study) -> click.Command:
    """The command that trains the missing cells and writes results.jsonl and the page."""

    @click.command(name=study.name, help=f"The experiment '{study.name}': runs that have a result are not repeated.")
    @click.option("--data-dir", type=click.Path(path_type=Path), help=study.data or "Not used.")
    @click.option("--minutes", type=click.FloatRange(min=0), default=240.0, help="No new part after this many minutes.")
    @out_option(default=Path("out") / study.name)
    @click.option("--page-only", is_flag=True, help="Train nothing; write the page from existing results.")
    def main(data_dir: Path | None, minutes: float, out: Path, page_only: bool) -> None:
        with held(out):
            results = Results(out)
            if not page_only:
                _run_missing(study, data_dir, minutes, results)
            results.export()
        write_text(out / "README.md", make_page(study, results))
        get_console().print(f"Wrote {out / 'README.md'}.")

    return main


def _run_missing(study: Study, data_dir: Path | None, minutes: float, results: Results) -> None:
    end = time.monotonic() + 60 * minutes
    cells = [(condition, method) for condition in study.conditions for method in study.methods]
    with progress_bar("parts", sum(study.count_parts(*cell) for cell in cells)) as bar, threadpool_limits(1):
        for condition, method, seeds in _wanted(study, results, cells):
            if study.key(condition, method, seeds) not in results and time.monotonic() < end:
                start = time.process_time()
                outcome = study.train(condition, method, seeds, data_dir)
                results.add({
                    "key": study.key(condition, method, seeds),
                    "task": f"{condition[0]}, {condition[1]}",
                    "method": method.name,
                    **outcome,
                    "cpu_seconds": round(time.process_time() - start, 1),
                    "versions": versions("torch"),
                })  # fmt: skip
            bar.advance()


def _wanted(
    study: Study, results: Results, cells: Sequence[tuple[Condition, Method]]
) -> Iterator[tuple[Condition, Method, Sequence[int]]]:
    """The parts of all cells; in a cell, parts that need the chosen setting follow those that choose it."""
    for condition, method in cells:
        search = study.parts(results, condition, method)
        yield from ((condition, *part) for part in search)
        yield from ((condition, *part) for part in study.parts(results, condition, method)[len(search) :])
