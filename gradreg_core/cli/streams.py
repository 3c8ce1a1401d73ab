"""Keeps standard output for a command's own output, whatever the code that it runs prints."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TextIO

__all__ = ["bytes_that_print", "prints_to_stderr"]


@contextmanager
def prints_to_stderr(active: bool = True, *, for_good: bool = False) -> Iterator[TextIO]:
    """Send everything printed inside to stderr, also by libraries and child processes; yields standard output.

    Args:
        active: whether to do it at all.
        for_good: do not switch back at the end, so that nothing follows, even from another thread or at the exit.
    """
    stdout = sys.stdout
    if not active:
        yield stdout
        return
    stdout.flush()
    if _descriptor(stdout) != 1:  # a stream in memory, as tests have it
        with redirect_stdout(sys.stderr):
            yield stdout
        return
    kept = os.dup(1)
    with os.fdopen(os.dup(1), "w", encoding=stdout.encoding, errors="backslashreplace") as own:
        os.dup2(2, 1)
        try:
            yield own
        finally:
            own.flush()
            with suppress(OSError):
                stdout.flush()
            if not for_good:
                os.dup2(kept, 1)
            os.close(kept)


def bytes_that_print() -> None:
    """Make the streams write characters that they cannot encode, as in odd file names, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None
