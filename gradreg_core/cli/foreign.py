"""Runs code that is not gradreg's, such as the factory of a model: it may raise anything, exit, or never return."""

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TypeVar

import click

from gradreg_core.errors import GradregError, InputError

__all__ = ["TIMEOUT", "call", "end_process", "no_silent_exit", "one_line", "timeout_option", "within"]

TIMEOUT = 300.0
"""Seconds that a factory may take."""
_EXIT = os._exit
_Result = TypeVar("_Result")
_Command = TypeVar("_Command", bound=Callable[..., Any])


def call(command: str, target: str, function: Callable[[], _Result], seconds: float = TIMEOUT) -> _Result:
    """Return function(); anything it raises becomes an error of one line.

    Args:
        command: the command that asks, for messages.
        target: the function's name, for messages.
        function: called without arguments.
        seconds: the limit, after which the process ends with status 2 and a line on stderr.

    Raises:
        InputError: it raised something, or called `sys.exit`.
    """
    try:
        with within(seconds, f"{command}: {target}"):
            return function()
    except (GradregError, KeyboardInterrupt):
        raise
    except BaseException as error:  # SystemExit too: its status says nothing about the command
        raise InputError(
            f"{command}: {target} raised {one_line(error)}. Call it in Python to see where, and let it return."
        ) from error


@contextmanager
def within(seconds: float, subject: str) -> Iterator[None]:
    """End the process with status 2 if the block takes longer, since no exception reaches code that hangs.

    Args:
        seconds: the limit.
        subject: what the block does, for the message.
    """
    message = (
        f"{subject} did not return within {seconds:g} seconds. Look for an endless loop or a wait in it, or give it "
        f"more time with --timeout."
    )
    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end_process, [message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def timeout_option(command: _Command) -> _Command:
    """The option ``--timeout``, seconds for a factory."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0, min_open=True),
        default=TIMEOUT,
        show_default=True,
        help="Seconds that importing and calling MODULE:NAME may take.",
    )(command)


@contextmanager
def no_silent_exit() -> Iterator[None]:
    """While a command runs, turn `os._exit` of this process into an error, whatever status it asks for."""
    process, before = os.getpid(), os._exit

    def guarded(status: int) -> NoReturn:
        if os.getpid() != process:  # a forked child ends as it likes
            before(status)
        end_process(f"os._exit({status}) was called before the command was done. Remove the call.", status or 2)

    os._exit = guarded
    try:
        yield
    finally:
        os._exit = before


def one_line(error: BaseException) -> str:
    """Type and message of an exception, on one line."""
    try:
        text = str(error)
    except BaseException as second:
        text = f"(its message raises {type(second).__name__})"
    return f"{type(error).__name__}: {' '.join(text.split())}".removesuffix(": ").removesuffix(".")


def end_process(message: str, status: int = 2) -> NoReturn:
    """End the process at once, from any thread, with a line on stderr."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    if os.isatty(2):
        os.write(2, b"\r\x1b[?25h")  # the cursor, which a progress bar hides
    with suppress(OSError):
        os.write(2, f"error: {message}\n".encode(errors="backslashreplace"))
    _EXIT(status)
