"""Stops a command cleanly, and gives the command line that resumes it."""

import os
import shlex
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import click

from gradreg_core.cli.foreign import end_process

__all__ = ["ARGUMENTS", "Terminated", "command_line", "terminable"]

ARGUMENTS = "gradreg.arguments"
"""The key of the arguments of the process in the `meta` of click's context."""
_PATIENCE = 5.0
"""Seconds that the main thread has to notice a signal."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came. As after Ctrl-C, files are closed and workers end."""

    status = 128 + signal.SIGTERM
    ending = "stopped by SIGTERM"


_ENDINGS = {signal.SIGTERM: (Terminated.status, Terminated.ending), signal.SIGINT: (130, "interrupted")}
_handlers: dict[int, Any] = {}
"""The earlier handlers, while this process is terminable."""


def command_line() -> str:
    """The running command as a user would type it again."""
    context = click.get_current_context(silent=True)
    arguments = None if context is None else context.meta.get(ARGUMENTS)
    if context is None or arguments is None:
        return shlex.join(sys.orig_argv)
    return f"{context.find_root().info_name} {shlex.join(arguments)}"


@contextmanager
def terminable(note: str = "", seconds: float = _PATIENCE) -> Iterator[None]:
    """SIGTERM raises :class:`Terminated` inside, in the main thread.

    Python hands a signal over between two instructions of the main thread, which may be in a call of compiled code for
    minutes. If it has noticed neither SIGTERM nor Ctrl-C after `seconds`, the process is ended from another thread,
    unless the training has replaced this handler with its own.

    Args:
        note: printed then, after the command's name.
        seconds: how long the main thread has.
    """
    if threading.current_thread() is not threading.main_thread() or _handlers:
        yield
        return
    noticed = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        noticed.set()
        raise Terminated if number == signal.SIGTERM else KeyboardInterrupt

    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell makes its background ignore Ctrl-C
    numbers = [signal.SIGTERM, *([signal.SIGINT] if usual else [])]
    _handlers.update({number: signal.signal(number, stop) or signal.SIG_DFL for number in numbers})
    try:
        with _ended_if_unnoticed(noticed, stop, note, seconds):
            yield
    finally:
        _restore()


def _restore() -> None:
    while _handlers:
        signal.signal(*_handlers.popitem())


@contextmanager
def _ended_if_unnoticed(noticed: threading.Event, handler: Any, note: str, seconds: float) -> Iterator[None]:
    """The operating system's handler writes the number of each signal, whatever the main thread does."""
    context = click.get_current_context(silent=True)
    name = "the command" if context is None else context.command_path
    reading, writing = socket.socketpair()
    writing.setblocking(False)

    def watch() -> None:
        while number := reading.recv(1):
            if number[0] not in _ENDINGS or signal.getsignal(number[0]) is not handler:
                continue
            if not noticed.wait(seconds):
                status, ending = _ENDINGS[signal.Signals(number[0])]
                end_process(f"{name} was {ending}. {note}".rstrip(), status)
            noticed.clear()

    thread = threading.Thread(target=watch, name="gradreg-signals", daemon=True)
    before = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        writing.close()
        thread.join()
        reading.close()


def _in_child() -> None:
    """A forked process has its own signals, and must not report them to its parent."""
    if _handlers:
        with suppress(ValueError):  # not the main thread
            signal.set_wakeup_fd(-1)
            _restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
