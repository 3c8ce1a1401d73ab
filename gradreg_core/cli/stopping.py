"""How a command is stopped, and the line that goes on with it."""

import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

__all__ = ["ARGUMENTS", "Terminated", "command_line", "terminable"]

ARGUMENTS = "gradreg.arguments"
"""The key of the arguments of the process in the `meta` of click's context."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came. As after Ctrl-C the files are closed and the workers end."""

    status = 128 + signal.SIGTERM
    ending = "stopped by SIGTERM"


def command_line() -> str:
    """The running command as it would be typed again."""
    context = click.get_current_context(silent=True)
    arguments = None if context is None else context.meta.get(ARGUMENTS)
    if context is None or arguments is None:
        return shlex.join(sys.orig_argv)
    return f"{context.find_root().info_name} {shlex.join(arguments)}"


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` inside, in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
