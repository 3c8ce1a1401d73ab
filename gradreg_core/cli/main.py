"""The command ``gradreg``. Commands live in other modules and are imported when they are called."""

import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from gradreg_core.errors import GradregError

if TYPE_CHECKING:
    from gradreg_core.plugins.discovery import BackendRecord

__all__ = ["COMMANDS", "LazyCommand", "LazyGroup", "main", "module_version"]


class LazyCommand(NamedTuple):
    """A command in a module that is imported when the command is called."""

    target: str
    """``"module:command"``."""
    summary: str
    """The line of ``gradreg --help``."""
    install: str = "pip install gradreg"
    """The command that installs what the module needs."""


COMMANDS: dict[str, LazyCommand] = {
    "bench": LazyCommand(
        "gradreg_bench.command:bench",
        "Measure what each regularizer costs beside a plain step.",
        'pip install "gradreg[bench,torch]"',
    ),
    "conformance": LazyCommand(
        "gradreg_conformance.command:conformance",
        "Test whether a backend computes the right penalties and gradients.",
        'pip install "gradreg[conformance]"',
    ),
    "demo": LazyCommand(
        "gradreg_experiments.demo.command:demo",
        "Train on real data with and without gradient regularization.",
        'pip install "gradreg[demo,torch]"',
    ),
    "doctor": LazyCommand("gradreg_core.cli.doctor:doctor", "Import every framework and report what is wrong."),
    "reproduce": LazyCommand(
        "gradreg_experiments.paper.command:reproduce",
        "Train the paper's tables and figures again.",
        'pip install "gradreg[reproduction,torch]"',
    ),
    "sweep": LazyCommand(
        "gradreg_sweep.command:sweep",
        "Test a framework's operations for second derivatives that are wrong or missing.",
        'pip install "gradreg[conformance]"',
    ),
    "validate": LazyCommand(
        "gradreg_validation.command:validate_command", "Compare a model with its port to another framework."
    ),
}
"""The commands in other modules: name -> where it is. Those of further packages are added here."""


class _Failure(click.ClickException):
    """An error of gradreg, shown as one line instead of a traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class LazyGroup(click.Group):
    """A group of commands, some of which are imported when they are called.

    A :class:`GradregError` that a command raises becomes ``error: message`` on stderr and exit status 2.

    Args:
        lazy: name -> where the command is.
        options: as `click.Group` takes them.
    """

    def __init__(self, *args: Any, lazy: Mapping[str, LazyCommand] | None = None, **options: Any) -> None:
        super().__init__(*args, **options)
        self.lazy = dict(lazy or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        target, _, install = self.lazy[cmd_name]
        module, _, attribute = target.partition(":")
        try:
            command = getattr(import_module(module), attribute)
        except ImportError as error:
            message = f"{ctx.command_path} {cmd_name}: {error}. Install what it needs with: {install}"
            raise _Failure(message) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            if name in self.lazy:
                rows.append((name, self.lazy[name].summary))
            elif (command := super().get_command(ctx, name)) is not None and not command.hidden:
                rows.append((name, command.get_short_help_str(limit=formatter.width)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GradregError as error:
            raise _Failure(str(error)) from error


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"gradreg {module_version('gradreg') or '(not installed)'}")
        ctx.exit()


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def main() -> None:
    """Gradient regularization in PyTorch, JAX and TensorFlow."""


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def backends(as_json: bool) -> None:
    """List the backends, and why those that cannot be used cannot."""
    from gradreg_core.plugins import discovery as plugins

    rows = [_row(record) for record in plugins.backends()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        _print_table(rows)


def module_version(module: str) -> str | None:
    """The version of the distribution that brings `module`, without importing it; None if there is none."""
    found = _version(module)
    if found is None:
        found = next(filter(None, map(_version, _providers().get(module, ()))), None)
    return found


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@cache
def _providers() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()


def _row(record: "BackendRecord") -> dict[str, Any]:
    description, plugin = record.description, record.plugin
    return {
        "name": record.name,
        "status": record.status,
        "reason": record.reason,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "entry_point": plugin.entry_point,
        "modules": {module: module_version(module) for module in description.modules} if description else {},
        "capabilities": list(description.capabilities) if description else [],
        "spec_version": description.spec_version if description else None,
        "install": description.install if description else None,
    }


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("backend", "status", "from", "needs", "capabilities"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        owner = f"{row['distribution']} {row['version'] or ''}".rstrip()
        needs = ", ".join(f"{module} {version or ''}".rstrip() for module, version in row["modules"].items())
        style = {"ok": "green", "missing": "yellow", "broken": "bold red"}[row["status"]]
        status = "BROKEN" if row["status"] == "broken" else row["status"]
        table.add_row(row["name"], Text(status, style), Text(owner), Text(needs), ", ".join(row["capabilities"]))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    for row in rows:
        if row["reason"]:
            click.echo(f"{row['name']}: {row['reason']}")


if __name__ == "__main__":
    main()
