"""Compares results with earlier ones: which ratios to the plain step have grown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cattrs import BaseValidationError
from rich.console import Console

from gradreg_bench.task import Measurement, Result, model_title
from gradreg_bench.variants import PLAIN
from gradreg_core.cli.arrays import read_json_file
from gradreg_core.cli.terminal import make_table
from gradreg_core.errors import InputError

__all__ = ["TOLERANCE", "Change", "changes", "print_changes", "read_results"]

TOLERANCE = 0.15
"""The default tolerance, a choice: the spread of ratios between runs has not been measured."""


@dataclass(frozen=True)
class Change:
    """One variant of one model in one framework, then and now."""

    framework: str
    model: str
    batch: int
    before: Measurement
    now: Measurement
    tolerance: float

    @property
    def growth(self) -> float:
        """The ratio now over the ratio then; infinite if the variant no longer has a time."""
        if self.now.ratio is None or self.before.ratio is None:
            return float("inf")
        return self.now.ratio.median / self.before.ratio.median

    @property
    def regressed(self) -> bool:
        """Whether it failed, or its median grew by more than the tolerance with disjoint quartiles."""
        if self.now.ratio is None or self.before.ratio is None:
            return True
        return self.growth > 1 + self.tolerance and self.now.ratio.low > self.before.ratio.high


def read_results(path: Path) -> list[Result]:
    """The results in a file written by the command.

    Raises:
        InputError: the file is missing, or holds something else.
    """
    try:
        values = read_json_file(path, "results of gradreg bench")
        return [Result.from_dict(row) for row in values["results"]]
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, BaseValidationError) as error:
        raise InputError(
            f"bench: --compare {path}: expected a file that gradreg bench wrote, such as out/bench/bench.json, got "
            f"something else: {type(error).__name__}."
        ) from error


def changes(before: Sequence[Result], now: Sequence[Result], tolerance: float = TOLERANCE) -> list[Change]:
    """The variants measured both times, with the same framework, mode, model, batch and number of threads.

    Args:
        before: the earlier results.
        now: the later results.
        tolerance: the allowed growth of a ratio, as a fraction of it.

    Raises:
        InputError: no variant was measured both times.
    """
    pairs = [
        Change(new.task.framework, new.task.model, new.task.batch, old_row, row, tolerance)
        for new in now
        for old in before
        if _subject(old) == _subject(new)
        for old_row, row in _rows(old, new)
    ]
    if not pairs:
        known = sorted({f"{old.task.framework} {model_title(old.task.model, old.task.batch)}" for old in before})
        raise InputError(
            f"bench: --compare: the file has none of the measured results; it has {', '.join(known) or 'no results'}, "
            f"with the number of threads given there. Choose from these with --backend, --network and --batch."
        )
    return pairs


def _subject(result: Result) -> tuple[str, str, int, int]:
    task = result.task
    return task.framework, task.model, task.batch, task.threads


def _rows(old: Result, new: Result) -> Iterator[tuple[Measurement, Measurement]]:
    earlier = {row.name: row for row in old.measurements if row.ratio is not None and row.name != PLAIN}
    for row in new.measurements:
        if row.name in earlier:
            yield earlier[row.name], row


def print_changes(console: Console, compared: Sequence[Change]) -> None:
    """All ratios measured both times, regressions in red."""
    title = f"ratios to the plain step, then and now (more than {100 * compared[0].tolerance:.0f} % is a regression)"
    headings = ["then", "now", "growth"]
    table = make_table(["framework", "model", "variant", *headings], right=headings, title=title)
    for one in compared:
        then, now = (
            f"{row.ratio.median:.2f}" if row.ratio else row.failed[:40] or "failed" for row in (one.before, one.now)
        )
        grown = "" if one.now.ratio is None else f"{100 * (one.growth - 1):+.0f} %"
        style = "red" if one.regressed else None
        table.add_row(one.framework, model_title(one.model, one.batch), one.now.name, then, now, grown, style=style)
    console.print(table)
