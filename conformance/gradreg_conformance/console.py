"""The tables of ``gradreg conformance``: one backend, a matrix of several, the list of checks."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from gradreg_conformance.check import LAYERS
from gradreg_conformance.report import Report, Result, counted, ratio
from gradreg_conformance.runner import all_checks
from gradreg_core.cli.terminal import get_console, make_table

__all__ = ["print_checks", "print_matrix", "print_report"]

_STYLES = {
    "passed": "green",
    "failed": "bold red",
    "expected failure": "yellow",
    "unexpected pass": "bold red",
    "not applicable": "dim",
    "not run": "dim",
}


def print_checks() -> None:
    """All checks with layer and claim."""
    table = make_table(["layer", "check", "claim"])
    for check in all_checks().values():
        table.add_row(f"L{check.layer} {LAYERS[check.layer]}", check.name, Text(check.summary))
    get_console().print(table)


def print_report(report: Report) -> None:
    """Every check with its result, then the failures and how to reproduce them, then the verdict."""
    console = get_console()
    numbers = ["error / allowed", "examples", "time"]
    table = make_table(["check", "status", *numbers], right=numbers)
    layer = ""
    for check in report.checks:
        if check.layer != layer:
            layer = check.layer
            _add_layer(table, layer)
        status = Text(check.status, _STYLES[check.status])
        table.add_row(
            f"  {check.name}", status, ratio(check.worst), str(check.examples or ""), f"{check.seconds:.1f} s"
        )
    console.print(table)
    reasons: dict[str, list[str]] = {}
    for check in report.checks:
        if check.status in ("failed", "unexpected pass", "expected failure"):
            console.print(f"\n{check.name}: {check.status}", style=_STYLES[check.status])
            console.print(check.message)
        elif check.status == "not applicable":
            reasons.setdefault(check.message, []).append(check.name)
    if reasons:
        console.print("\nnot applicable:")
    for reason, names in reasons.items():
        console.print(f"  {reason}: {', '.join(names)}")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    console.print(f"\n{versions}; {report.device}; profile {report.profile}; {report.platform}")
    for name, text in report.conditions.items():
        console.print(f"{name}: {text}")
    multiplied = f", which the harness multiplies by {report.tolerance:g}" if report.tolerance != 1 else ""
    console.print(f"error / allowed: the largest error as a multiple of what rounding allows{multiplied}")
    _print_verdict(console, report)


def print_matrix(reports: Sequence[Report]) -> None:
    """Checks by backends."""
    console = get_console()
    table = make_table(["check", *(f"{report.backend}\n{report.device}" for report in reports)])
    results = [{check.name: check for check in report.checks} for report in reports]
    layers = {check.name: check.layer for report in reports for check in report.checks}
    for layer in LAYERS:
        if layer in layers.values():
            _add_layer(table, layer)
        for name in (name for name, its in layers.items() if its == layer):
            table.add_row(f"  {name}", *(_cell(own.get(name)) for own in results))
    console.print(table)
    for report in reports:
        _print_verdict(console, report)


def _cell(check: Result | None) -> Text:
    return Text() if check is None else Text(f"{check.status} {ratio(check.worst)}".rstrip(), _STYLES[check.status])


def _add_layer(table: Table, layer: str) -> None:
    table.add_row(Text(f"L{LAYERS.index(layer)} {layer}", "bold"))


def _print_verdict(console: Console, report: Report) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in report.totals.items() if count)
    tested = f" ({counts}; {counted(report.examples, 'example')}, {report.seconds:.0f} s)" if counts else ""
    console.print(f"{report.backend}: {report.verdict}{tested}", style="bold green" if report.ok else "bold red")
