"""Tables of the summaries, for the terminal and as Markdown."""

from collections.abc import Sequence

from rich.console import Console

from gradreg_core.cli.terminal import make_table
from gradreg_experiments.paper.summary import Summary

__all__ = ["grid", "markdown", "print_summaries", "table"]

_PENALTY = "penalty"
_PAPER = ("paper (sd)", "difference", "p")


def table(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line for each cell that has been run; the paper's columns if it has numbers for one of them.

    Cells without a run are left out, "-" stands for values that need more runs.
    """
    paper = any(row.cell.paper for row in summaries)
    base = summaries[0].cell.column if summaries else "the first"
    headings = ["cell", _PENALTY, "seeds", "accuracy % (sd)", *(_PAPER if paper else ())]
    headings += [f"gain over {base}", "p of gain"]
    lines = []
    for row in (row for row in summaries if row.values):
        numbers = (
            _number(*row.cell.paper) if row.cell.paper else "-",
            _signed(row.difference),
            _probability(row.p_paper),
        )
        line = [row.cell.name, _penalty(row), str(len(row.values)), _number(row.mean, row.deviation)]
        lines.append([*line, *(numbers if paper else ()), _signed(row.gain), _probability(row.p_gain)])
    return headings, lines


def print_summaries(console: Console, title: str, summaries: Sequence[Summary]) -> None:
    """The table in the terminal."""
    headings, lines = table(summaries)
    hidden = headings.index(_PENALTY)
    headings, *lines = ([*line[:hidden], *line[hidden + 1 :]] for line in (headings, *lines))
    shown = make_table(headings, right=headings[1:], title=title)
    for line in lines:
        shown.add_row(*line)
    console.print(shown)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, with numbers right-aligned."""
    rule = ["---", *("---:" for _ in headings[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, rule, *rows])


def grid(summaries: Sequence[Summary]) -> str:
    """Rows and columns as in the paper, ours above the paper's, as Markdown; without cells that have no run."""
    known = [summary for summary in summaries if summary.values]
    rows = list(dict.fromkeys(summary.cell.row for summary in known))
    columns = list(dict.fromkeys(summary.cell.column for summary in known))
    by_place = {(summary.cell.row, summary.cell.column): summary for summary in summaries}

    def text(row: str, column: str) -> str:
        summary = by_place.get((row, column))
        if summary is None:
            return ""
        ours = f"{_number(summary.mean, summary.deviation)}, n = {len(summary.values)}" if summary.values else "not run"
        return ours + (f"<br>paper: {_number(*summary.cell.paper)}" if summary.cell.paper else "")

    return markdown(["", *columns], [[row, *(text(row, column) for column in columns)] for row in rows])


def _penalty(summary: Summary) -> str:
    """The cell's own terms, without weight decay and seed."""
    made = summary.cell.make(0)
    return "-" if made is None else f"`{made!r}`"


def _number(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ({deviation:.2f})"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _probability(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
