"""The command ``gradreg``: a group whose commands come from plugins, and are imported when they are called."""

import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import click

from gradreg_core.cli.foreign import no_silent_exit, one_line
from gradreg_core.cli.stopping import ARGUMENTS
from gradreg_core.cli.streams import bytes_that_print, prints_to_stderr
from gradreg_core.cli.versions import module_version
from gradreg_core.errors import GradregError
from gradreg_core.plugins import discovery, loading
from gradreg_core.plugins.discovery import CommandRecord

__all__ = ["LazyGroup", "main"]

_WRONG = 2
"""The exit status of wrong usage, and of any other failure."""


class _Failure(click.ClickException):
    """An error shown as one line instead of a traceback."""

    def __init__(self, message: str, status: int = _WRONG) -> None:
        super().__init__(" ".join(message.split()))
        setattr(self, "exit_code", status)  # noqa: B010 - click has it as an attribute of the class

    def show(self, file: Any = None) -> None:
        click.echo(f"error: {self.message}", file=file, err=True)


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, so that its help is quick.

    Any exception of a command becomes ``error: message``, one line on stderr, and exit status 2: a
    :class:`GradregError`, wrong usage, a `sys.exit` of code that the command runs. Notes of the exception follow its
    message. Other exceptions print their traceback first. An interrupt has the exit status of its signal.

    Output of plugins while they load goes to stderr.

    Args:
        records: returns the commands; broken ones are listed with their reasons.
        options: as `click.Group` takes them.
    """

    def __init__(self, *args: Any, records: Callable[[], Sequence[CommandRecord]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.records = records

    def main(self, *args: Any, **options: Any) -> Any:
        bytes_that_print()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greeting, in this process and its children
        before, loading.around = loading.around, prints_to_stderr
        try:
            with no_silent_exit():
                return super().main(*args, **options)
        finally:
            loading.around = before

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **options: Any) -> click.Context:
        with _one_line_errors(lambda: str(self.name)):
            arguments = list(args)
            context = super().make_context(info_name, args, *more, **options)
            context.meta[ARGUMENTS] = arguments
            return context

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line_errors(lambda: " ".join(filter(None, [ctx.command_path, ctx.invoked_subcommand]))):
            return super().invoke(ctx)

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


@contextmanager
def _one_line_errors(name: Callable[[], str]) -> Iterator[None]:
    """Turn exceptions into failures; `name` returns the command, for messages."""
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit, click.Abort, _Failure):
        raise
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else name()
        message = error.format_message()
        stop = "" if message.endswith((".", "?")) else "."
        raise _Failure(f"{message}{stop} '{path} --help' shows an example.") from error
    except click.ClickException:
        raise
    except GradregError as error:
        _fail(str(error), error)
    except KeyboardInterrupt as error:
        _fail(f"{name()} was {getattr(error, 'ending', 'interrupted')}.", error, getattr(error, "status", 130))
    except OSError as error:
        if getattr(error, "errno", None) is None or isinstance(error, BrokenPipeError):
            raise
        _fail(f"{name()}: {error}. Check the place and its rights.", error)
    except SystemExit as error:
        _fail(f"{name()}: code that it ran called sys.exit({error.code!r}) before it was done. Remove the call.", error)
    except Exception as error:
        traceback.print_exc()
        _fail(f"{name()}: {one_line(error)}. The traceback is above; report it if it comes from gradreg.", error)
    except BaseException as error:
        _fail(f"{name()}: code that it ran raised {one_line(error)}. Raise a subclass of Exception there.", error)


def _fail(message: str, error: BaseException, status: int = _WRONG) -> NoReturn:
    """Raise the failure: the message and the notes of `error`."""
    raise _Failure(" ".join([message, *getattr(error, "__notes__", [])]), status) from error


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
