"""The command ``gradreg sweep``."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from gradreg_core.errors import InputError
from gradreg_sweep import report
from gradreg_sweep.operation import Operation
from gradreg_sweep.registry import NAMES, framework
from gradreg_sweep.search import Finding, Framework, chosen, examine

__all__ = ["main", "sweep"]

STYLES = {"right": "green", "raises": "yellow", "undecided": "dim"}


@click.command()
@click.argument("names", metavar="[torch|jax|tensorflow]...", nargs=-1)
@click.option("--op", "operations", multiple=True, help="Only operations whose name contains this; may be repeated.")
@click.option(
    "--mode",
    "modes",
    multiple=True,
    help="eager, func, compile, jit, function or xla; may be repeated [the plain one].",
)
@click.option(
    "--examples", type=click.IntRange(1), help="Configurations to draw of each operation [what suits the mode]."
)
@click.option("--report", "path", type=click.Path(path_type=Path), help="Write FILE.md or FILE.json.")
@click.option(
    "--add", "earlier", multiple=True, type=click.Path(path_type=Path, exists=True), help="Put a JSON report in front."
)
@click.option("--list", "listing", is_flag=True, help="List the operations, and run none.")
@click.option("--show", is_flag=True, help="Print the program that shows each finding.")
def sweep(
    names: tuple[str, ...],
    operations: tuple[str, ...],
    modes: tuple[str, ...],
    examples: int | None,
    path: Path | None,
    earlier: tuple[Path, ...],
    listing: bool,
    show: bool,
) -> None:
    """Test a framework's operations for second derivatives that are wrong or missing.

    Each is put into a small network, and the gradient of ||J^T w||^2 by the framework alone is compared with
    differences. What disagrees is shrunk to a small example. The exit status is 1 if something was silently wrong.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if not names and not earlier:
        raise InputError(f"sweep: expected a framework, one or more of {', '.join(NAMES)}.")
    frameworks = [framework(name) for name in names]
    unknown = set(modes) - {mode for each in frameworks for mode in each.modes}
    if unknown and frameworks:
        known = "; ".join(f"{each.name}: {', '.join(each.modes)}" for each in frameworks)
        raise InputError(f"sweep: no such mode: {', '.join(sorted(unknown))}. There are {known}.")
    plan = [
        (each, mode, operation)
        for each in frameworks
        for mode in (modes or each.modes[:1])
        if mode in each.modes
        for operation in chosen(each, mode, operations)
    ]
    if frameworks and not plan:
        raise InputError(
            f"sweep: no operation matches {', '.join(operations) or 'this mode'}. "
            f"gradreg sweep {names[0]} --list shows all."
        )
    if listing:
        for each, mode, operation in plan:
            click.echo(f"{each.name} {mode} {operation.name}")
        return
    if path is not None and not path.absolute().parent.is_dir():
        raise InputError(f"sweep: --report {path}: there is no folder {path.parent}. Make it first.")
    found = [finding for each in earlier for finding in report.read(each)]
    for finding in _run(plan, examples):
        found.append(finding)
        if path is not None:  # after each, so that a sweep that is stopped leaves what it has
            report.write(path, found)
    _print(found, show)
    if path is not None:
        report.write(path, found)
        click.echo(f"Wrote {path}.")
    if any(each.kind in report.SILENT for each in found):
        sys.exit(1)


main = sweep


def _run(plan: list[tuple[Framework, str, Operation]], examples: int | None) -> Iterator[Finding]:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=len(plan))
        for each, mode, operation in plan:
            bar.update(task, description=f"{mode} {operation.name}")
            yield examine(each, operation, mode, examples)
            bar.advance(task)


def _print(findings: list[Finding], show: bool) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("operation", "mode", "kind", "error", "remark"):
        table.add_column(heading, overflow="fold")
    for each in findings:
        style = STYLES.get(each.kind, "bold red")
        remark = "; ".join(filter(None, [each.detail[:80], "single" if each.single else ""]))
        table.add_row(each.operation, each.mode, Text(each.kind, style), report.size(each), Text(remark))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    if show:
        for each in findings:
            if each.reproduction:
                click.echo(f"\n# {each.operation}, {each.mode}: {each.kind}\n{each.reproduction}")
