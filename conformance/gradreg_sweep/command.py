"""The command ``gradreg sweep``."""

import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.text import Text

from gradreg_core.cli.terminal import get_console, make_table, out_option, progress_bar
from gradreg_core.errors import InputError
from gradreg_sweep import report
from gradreg_sweep.compositions import COMPOSITIONS, PENALTY
from gradreg_sweep.framework import Framework
from gradreg_sweep.operation import Operation
from gradreg_sweep.precision import DTYPES
from gradreg_sweep.registry import framework, names
from gradreg_sweep.search import Finding, References, chosen, examine
from gradreg_sweep.verdict import UNTRIED

__all__ = ["sweep"]

_STYLES = {"right": "green", "raises": "yellow", "undecided": "dim"}
_BETWEEN = 20.0
"""Seconds between two reports of an unfinished sweep."""
_Plan = list[tuple[Framework, str, Operation, str, str]]
"""Framework, mode, operation, composition and dtype; the dtype "" stands for the operation's own."""


@click.command(epilog="\b\nExample:\n  gradreg sweep torch --op pool --show")
@click.argument("backends", metavar="[BACKEND]...", nargs=-1)
@click.option("--op", "operations", multiple=True, help="Only operations whose name contains this; may be repeated.")
@click.option(
    "--mode", "modes", multiple=True, help="A mode of the framework, such as func; may be repeated [the plain one]."
)
@click.option(
    "--composition",
    "compositions",
    multiple=True,
    metavar="MODES",
    type=click.Choice([*COMPOSITIONS, "all"]),
    help=f"Modes of differentiation, the outer first: {', '.join(COMPOSITIONS)}, or all; may be repeated "
    "[reverse-reverse].",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=click.Choice(DTYPES),
    help="Of the arrays; below float64, an error counts if rounding does not explain it; may be repeated [float64].",
)
@click.option("--enumerated", is_flag=True, help="Also the operations that the framework's own modules list.")
@click.option(
    "--examples",
    type=click.IntRange(0),
    help="Configurations to draw per operation, besides the usual one [depends on the mode].",
)
@out_option("--report", "path", folder=False, suffixes=(".md", ".json"), help="Write a page or JSON.")
@click.option(
    "--add",
    "earlier",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Start with a JSON report, and run only what it lacks; may be repeated.",
)
@click.option(
    "--compare", type=click.Path(path_type=Path, exists=True), help="List the differences from a JSON report."
)
@click.option("--list", "listing", is_flag=True, help="List the operations without running them.")
@click.option("--show", is_flag=True, help="Print the program and the report of each finding.")
def sweep(
    backends: tuple[str, ...],
    operations: tuple[str, ...],
    modes: tuple[str, ...],
    compositions: tuple[str, ...],
    dtypes: tuple[str, ...],
    enumerated: bool,
    examples: int | None,
    path: Path | None,
    earlier: tuple[Path, ...],
    compare: Path | None,
    listing: bool,
    show: bool,
) -> None:
    """Test a framework's operations for second derivatives that are wrong or missing.

    Each is put into a small network, and the gradient of ||J^T w||^2 by the framework alone is compared with
    differences; so are the other compositions of forward and reverse mode. What disagrees is shrunk to a small example.
    The exit status is 1 if something was silently wrong.
    """
    if not backends and not earlier:
        raise InputError(f"sweep: expected a framework, one or more of {', '.join(names())}.")
    kinds = tuple(COMPOSITIONS) if "all" in compositions else compositions or (PENALTY,)
    plan = _plan([framework(name) for name in backends], modes, operations, kinds, dtypes, enumerated)
    if listing:
        for swept, mode, operation, composition, dtype in plan:
            click.echo(" ".join(filter(None, [swept.name, mode, composition, dtype, operation.name])))
        return
    findings = [finding for file in earlier for finding in report.read(file)]
    done = {(row.version, row.mode, row.operation, row.composition, row.dtype) for row in findings}
    plan = [item for item in plan if _key(*item) not in done]
    known = report.read(compare) if compare is not None else []
    _collect(findings, _run(plan, examples), path, known)
    _print(findings, show)
    for before, after in report.changes(known, findings):
        place = f"{after.operation}, {after.composition}, {after.mode}, {after.dtype}"
        click.echo(f"{place}: {before.kind} in {before.version}, {after.kind} in {after.version}")
    if any(finding.kind in report.SILENT for finding in findings):
        click.get_current_context().exit(1)


def _key(
    swept: Framework, mode: str, operation: Operation, composition: str, dtype: str
) -> tuple[str, str, str, str, str]:
    return swept.version, mode, operation.name, composition, dtype or "float64"


def _collect(findings: list[Finding], new: Iterator[Finding], path: Path | None, compared: list[Finding]) -> None:
    """Add to the findings, and write them every few seconds: a sweep that is interrupted leaves a report."""
    written = time.monotonic()
    for finding in new:
        findings.append(finding)
        if path is not None and time.monotonic() - written > _BETWEEN:
            report.write(path, findings, compared)
            written = time.monotonic()
    if path is not None:
        files = report.write(path, findings, compared)
        click.echo(f"Wrote {', '.join(map(str, files))}.")


def _plan(
    frameworks: list[Framework],
    modes: tuple[str, ...],
    operations: tuple[str, ...],
    compositions: tuple[str, ...],
    dtypes: tuple[str, ...],
    enumerated: bool,
) -> _Plan:
    """The runs, in the order of the report."""
    unknown = set(modes) - {mode for swept in frameworks for mode in swept.modes}
    if unknown and frameworks:
        known = "; ".join(f"{swept.name}: {', '.join(swept.modes)}" for swept in frameworks)
        raise InputError(f"sweep: no such mode: {', '.join(sorted(unknown))}. There are {known}.")
    more = {swept.name: tuple(swept.enumerated()) if enumerated else () for swept in frameworks}
    plan = [
        (swept, mode, operation, composition, dtype)
        for swept in frameworks
        for mode in swept.modes
        for kinds in [[kind for kind in compositions if mode in (modes or swept.modes_for(kind)[:1])]]
        for operation in chosen(swept, mode, operations, more[swept.name])
        for composition in (kinds[:1] if operation.untried else kinds)
        if mode in swept.modes_for(composition)
        for dtype in ([""] if operation.untried else dtypes or [""])
    ]
    if frameworks and not plan:
        raise InputError(
            f"sweep: no operation matches {', '.join(operations) or 'this mode'}. "
            f"gradreg sweep {frameworks[0].name} --list shows all."
        )
    return plan


def _run(plan: _Plan, examples: int | None) -> Iterator[Finding]:
    references: References = {}
    before: tuple[str, str] | None = None
    with progress_bar("", len(plan)) as bar:
        for swept, mode, operation, composition, dtype in plan:
            bar.describe(" ".join(filter(None, [mode, composition, dtype, operation.name])))
            if before != (mode, operation.name):
                references, before = {}, (mode, operation.name)
            yield examine(swept, operation, mode, examples, composition, references, dtype or None)
            bar.advance()


def _print(findings: list[Finding], show: bool) -> None:
    table = make_table(["operation", "mode", "composition", "dtype", "kind", "error", "remark"])
    for finding in (finding for finding in findings if finding.kind != UNTRIED):
        kind = Text(finding.kind, _STYLES.get(finding.kind, "bold red"))
        remark = "; ".join(filter(None, [finding.detail, "single" if finding.single else ""]))
        where = (finding.operation, finding.mode, finding.composition, finding.dtype)
        table.add_row(*where, kind, report.size(finding), remark)
    get_console().print(table)
    texts = report.texts(findings) if show else {}
    for finding in findings if show else ():
        if finding.reproduction:
            click.echo(f"\n# {finding.operation}, {finding.mode}: {finding.kind}\n{finding.reproduction}")
            if text := texts.get(finding.reproduction):
                click.echo("\n".join(["Text for a report, with the program:", *text]))
