"""Tables of the summaries, for the terminal and as Markdown."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from gradreg_reproduction.summary import Summary

__all__ = ["HEADINGS", "grid", "lines", "markdown", "print_summaries"]

HEADINGS = ("cell", "seeds", "accuracy % (sd)", "paper (sd)", "difference", "p", "gain over NoGR", "p of gain")


def lines(summaries: Sequence[Summary]) -> list[tuple[str, ...]]:
    """One line a cell, under :data:`HEADINGS`; "-" for what cannot be said from the runs there are."""
    return [
        (
            each.cell.name,
            str(len(each.values)),
            _number(each.mean, each.deviation),
            _number(*each.cell.paper) if each.cell.paper else "-",
            _signed(each.difference),
            _probability(each.p_paper),
            _signed(each.gain),
            _probability(each.p_gain),
        )
        for each in summaries
    ]


def print_summaries(console: Console, title: str, summaries: Sequence[Summary]) -> None:
    """The table in the terminal."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)
    for heading in HEADINGS:
        first = heading == HEADINGS[0]
        table.add_column(heading, justify="left" if first else "right", no_wrap=first)
    for line in lines(summaries):
        table.add_row(*line)
    console.print(table)


def markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    rule = ["---", *("---:" for _ in headings[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in [headings, rule, *rows])


def grid(summaries: Sequence[Summary]) -> str:
    """Rows and columns as in the paper, ours above the paper's, as Markdown."""
    rows = list(dict.fromkeys(each.cell.row for each in summaries))
    columns = list(dict.fromkeys(each.cell.column for each in summaries))
    found = {(each.cell.row, each.cell.column): each for each in summaries}

    def text(row: str, column: str) -> str:
        each = found.get((row, column))
        if each is None:
            return ""
        paper = f"<br>paper: {_number(*each.cell.paper)}" if each.cell.paper else ""
        return f"{_number(each.mean, each.deviation)}, n = {len(each.values)}{paper}"

    return markdown(["", *columns], [[row, *(text(row, column) for column in columns)] for row in rows])


def _number(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ({deviation:.2f})"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


def _probability(value: float | None) -> str:
    return "-" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"
