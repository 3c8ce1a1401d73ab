"""What ``gradreg conformance`` shows in a terminal: a progress bar, a table, a matrix."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gradreg_conformance.check import LAYERS, Check
from gradreg_conformance.report import Report, counted, ratio
from gradreg_conformance.runner import Result, all_checks

__all__ = ["print_checks", "print_matrix", "print_report", "progress"]

_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "expected failure": "yellow",
    "unexpected pass": "bold red",
    "not applicable": "dim",
    "not run": "dim",
}


class Callbacks(NamedTuple):
    """What to call before and after each check."""

    starting: Callable[[Check], None]
    progress: Callable[[Result], None]


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=120)


@contextmanager
def progress(name: str, total: int) -> Iterator[Callbacks]:
    """A progress bar with the running check, on stderr, gone at the end; nothing where that is no terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        yield Callbacks(
            lambda check: bar.update(task, description=f"{name}: {check.name}"), lambda result: bar.advance(task)
        )


def print_checks() -> None:
    """All checks with layer and claim."""
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "check", "claim"):
        table.add_column(heading, overflow="fold")
    for check in all_checks().values():
        table.add_row(f"L{check.layer} {LAYERS[check.layer]}", check.name, Text(check.summary))
    _console().print(table)


def print_report(report: Report) -> None:
    """Every check with its result, then what failed and how to see it again, then the verdict."""
    console = _console()
    table = Table(box=None, pad_edge=False)
    table.add_column("check", overflow="fold")
    table.add_column("status")
    for heading in ("error / allowed", "examples", "time"):
        table.add_column(heading, justify="right", no_wrap=True)
    layer = ""
    for check in report.checks:
        if check.layer != layer:
            layer = check.layer
            table.add_row(Text(f"L{LAYERS.index(layer)} {layer}", "bold"))
        status = Text(check.status, _STYLES[check.status])
        table.add_row(
            f"  {check.name}", status, ratio(check.worst), str(check.examples or ""), f"{check.seconds:.1f} s"
        )
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for check in report.checks:
        if check.status in ("failed", "unexpected pass", "expected failure"):
            console.print(f"\n{check.name}: {check.status}", style=_STYLES[check.status])
            console.print(check.message, soft_wrap=True)
        elif check.status == "not applicable":
            reasons.setdefault(check.message, []).append(check.name)
    if reasons:
        console.print("\nnot applicable:")
    for reason, names in reasons.items():
        console.print(f"  {reason}: {', '.join(names)}", soft_wrap=True)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    console.print(f"\n{versions}; {report.device}; profile {report.profile}; {report.platform}", soft_wrap=True)
    console.print(
        "error / allowed: the largest error as a multiple of what rounding allows"
        + (f", which the harness multiplies by {report.tolerance:g}" if report.tolerance != 1 else ""),
        soft_wrap=True,
    )
    _print_verdict(console, report)


def print_matrix(reports: Sequence[Report]) -> None:
    """Checks by backends."""
    console = _console()
    table = Table(box=None, pad_edge=False)
    table.add_column("check", overflow="fold")
    for report in reports:
        table.add_column(f"{report.backend}\n{report.device}")
    found = [{check.name: check for check in report.checks} for report in reports]
    layers = {check.name: check.layer for report in reports for check in report.checks}
    for layer in LAYERS:
        if layer in layers.values():
            table.add_row(Text(f"L{LAYERS.index(layer)} {layer}", "bold"))
        for name in (each for each, its in layers.items() if its == layer):
            cells = []
            for each in (own.get(name) for own in found):
                text = "" if each is None else f"{each.status} {ratio(each.worst)}".rstrip()
                cells.append(Text(text, "" if each is None else _STYLES[each.status]))
            table.add_row(f"  {name}", *cells)
    console.print(table)
    for report in reports:
        _print_verdict(console, report)


def _print_verdict(console: Console, report: Report) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in report.totals.items() if count)
    tested = f" ({counts}; {counted(report.examples, 'example')}, {report.seconds:.0f} s)" if counts else ""
    style = "bold green" if report.ok else "bold red"
    console.print(f"{report.backend}: {report.verdict}{tested}", style=style, soft_wrap=True)
