"""Tables of the summaries, for the terminal and as Markdown."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gradreg_experiments.paper.summary import Summary

__all__ = ["grid", "markdown", "print_summaries", "table"]

_PENALTY = "penalty"
_PAPER = ("paper (sd)", "difference", "p")


def table(summaries: Sequence[Summary]) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line for each cell that has been run; the paper's columns where it has numbers for one of them.

    Cells without a run are left out, "-" stands for what cannot be said from the runs there are.
    """
    paper = any(each.cell.paper for each in summaries)
    base = summaries[0].cell.column if summaries else "the first"
    headings = ["cell", _PENALTY, "seeds", "accuracy % (sd)", *(_PAPER if paper else ())]
    headings += [f"gain over {base}", "p of gain"]
    lines = []
    for each in (each for each in summaries if each.values):
        numbers = (
            _number(*each.cell.paper) if each.cell.paper else "-",
            _signed(each.difference),
            _probability(each.p_paper),
        )
        line = [each.cell.name, _penalty(each), str(len(each.values)), _number(each.mean, each.deviation)]
        lines.append([*line, *(numbers if paper else ()), _signed(each.gain), _probability(each.p_gain)])
    return headings, lines


def print_summaries(console: Console, title: str, summaries: Sequence[Summary]) -> None:
    """The table in the terminal."""
    shown = Table(title=title, box=SIMPLE_HEAD, padding=0)
    headings, lines = table(summaries)
    hidden = headings.index(_PENALTY)
    headings, *lines = ([*each[:hidden], *each[hidden + 1 :]] for each in (headings, *lines))
    for heading in headings:
        first = heading == headings[0]
        shown.add_column(heading, justify="left" if first else "right", no_wrap=first)
    for line in lines:
        shown.add_row(*line)
    console.print(shown)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *("---:" for _ in headings[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, rule, *rows])


def grid(summaries: Sequence[Summary]) -> str:
    """Rows and columns as in the paper, ours above the paper's, as Markdown; those without any number are left out."""
    known = [each for each in summaries if each.values or each.cell.paper]
    rows = list(dict.fromkeys(each.cell.row for each in known))
    columns = list(dict.fromkeys(each.cell.column for each in known))
    found = {(each.cell.row, each.cell.column): each for each in summaries}

    def text(row: str, column: str) -> str:
        each = found.get((row, column))
        if each is None:
            return ""
        if not each.values and not each.cell.paper:
            return "-"
        paper = f"<br>paper: {_number(*each.cell.paper)}" if each.cell.paper else ""
        return f"{_number(each.mean, each.deviation)}, n = {len(each.values)}{paper}"

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
