"""The command ``gradreg``: a group whose commands come from plugins, and are imported when they are called."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import click

from gradreg_core.cli.versions import module_version
from gradreg_core.errors import GradregError
from gradreg_core.plugins import discovery
from gradreg_core.plugins.discovery import CommandRecord

__all__ = ["LazyGroup", "main"]


class _Failure(click.ClickException):
    """An error of gradreg, shown as one line instead of a traceback."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that its help is quick.

    A :class:`GradregError` that a command raises becomes ``error: message`` on stderr and exit status 2.

    Args:
        records: called for the commands; those that are broken are listed with their reasons.
        options: as `click.Group` takes them.
    """

    def __init__(self, *args: Any, records: Callable[[], Sequence[CommandRecord]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.records = records

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(record.name for record in self.records() if record.status == "ok")

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        named = [record for record in self.records() if record.name == cmd_name]
        description = next((record.description for record in named if record.status == "ok"), None)
        if description is None:
            if named:
                raise _Failure(f"{ctx.command_path} {cmd_name}: its plugin is broken: {_line(named[0])}.")
            return None
        module, _, attribute = description.target.partition(":")
        try:
            command = getattr(import_module(module), attribute, None)
        except ImportError as error:
            message = f"{ctx.command_path} {cmd_name}: {error}. Install what it needs with: {description.install}"
            raise _Failure(message) from error
        if not isinstance(command, click.Command):
            raise _Failure(f"{ctx.command_path} {cmd_name}: expected {description.target} to be a click command.")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = sorted(self.records(), key=lambda record: record.name)
        rows = [
            (record.name, record.description.summary)
            for record in records
            if record.description and record.status == "ok"
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
        if broken := [(record.name, _line(record)) for record in records if record.status != "ok"]:
            with formatter.section("Broken plugins"):
                formatter.write_dl(broken)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except GradregError as error:
            raise _Failure(str(error)) from error


def _line(record: CommandRecord) -> str:
    return f"{record.plugin}: {record.reason}"


def _print_version(ctx: click.Context, parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"gradreg {module_version('gradreg') or '(not installed)'}")
        ctx.exit()


@click.group(cls=LazyGroup, records=discovery.commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
)
def main() -> None:
    """Gradient regularization in PyTorch, JAX and TensorFlow."""


if __name__ == "__main__":
    main()
