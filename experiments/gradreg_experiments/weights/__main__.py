"""``python -m gradreg_experiments.weights``: runs what is missing and writes the page."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from gradreg_core.cli.files import write_text
from gradreg_core.cli.terminal import get_console, out_option, progress_bar
from gradreg_experiments.folder import held
from gradreg_experiments.results import Results
from gradreg_experiments.runner import versions
from gradreg_experiments.weights.page import make_page
from gradreg_experiments.weights.rules import CHECKED_RULES, RULES, Rule
from gradreg_experiments.weights.tasks import CHECKS, TASKS, Task
from gradreg_experiments.weights.training import Seeds, train

__all__ = ["RUNS", "key", "main", "run_missing"]

_VERSION = 1
"""Increased when the same settings would give different results."""

RUNS: list[tuple[Task, Sequence[Rule]]] = [
    *((task, RULES) for task in TASKS),
    *((task, CHECKED_RULES) for task in CHECKS),
]
"""All pairs of a task and a rule to run."""


def key(task: Task, rule: Rule) -> str:
    """A hash of everything that determines the runs of a rule on a task."""
    everything = [_VERSION, asdict(task), rule.name, rule.formula, list(rule.settings), rule.penalty]
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:16]


def run_missing(
    task: Task, rules: Sequence[Rule], mnist: Path | None, results: Results, tick: Callable[[], None] = lambda: None
) -> None:
    """Run what is missing of a task, and keep the results of each rule as they arrive.

    Args:
        task: the task to train.
        rules: the first has no penalty; others refer to it.
        mnist: the folder with MNIST's files.
        results: the finished runs; new results are added.
        tick: called after every rule.
    """
    seeds: Seeds | None = None
    for rule in rules:
        if key(task, rule) not in results:
            start = time.perf_counter()
            if seeds is None:
                seeds = Seeds.make(task, mnist)
                if rule is not rules[0]:
                    train(seeds, rules[0], rules[0].settings)
            runs = train(seeds, rule, rule.settings)
            result = {"key": key(task, rule), "task": task.name, "rule": rule.name, "penalty": rule.penalty}
            took = {"seconds": round(time.perf_counter() - start, 1), "versions": versions("torch")}
            results.add(result | {"runs": runs} | took)
        tick()


@click.command(epilog="\b\nExample:\n  python -m gradreg_experiments.weights --data-dir mnist")
@click.option("--data-dir", type=click.Path(path_type=Path), help="A folder with MNIST's four files.")
@out_option(default=Path("out/weights"))
@click.option("--page-only", is_flag=True, help="Train nothing; write the page from existing results.")
def main(data_dir: Path | None, out: Path, page_only: bool) -> None:
    """Compare forms of the penalty on several kinds of tasks, and write results.jsonl and README.md.

    Without --data-dir the tasks on MNIST are left out.
    """
    pairs = [] if page_only else [pair for pair in RUNS if pair[0].data != "MNIST" or data_dir is not None]
    total = sum(len(rules) for _, rules in pairs)
    with held(out):
        results = Results(out)
        with progress_bar("forms of the penalty x tasks", total) as bar, threadpool_limits(1):
            for task, rules in pairs:
                run_missing(task, rules, data_dir, results, bar.advance)
        results.export()
    write_text(out / "README.md", make_page(results))
    get_console().print(f"Wrote {out / 'README.md'}.")


if __name__ == "__main__":
    main()
