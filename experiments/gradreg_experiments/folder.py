"""The folder of a command that trains: checked before the first run, and held by one command at a time."""

import errno
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

from gradreg_core.cli.stopping import command_line, terminable
from gradreg_core.errors import GradregError, RunError, add_note
from gradreg_experiments.results import EXPORT, RUNS

__all__ = ["check_folder", "held"]

_LOCK, _HOLDER = ".lock", ".holder"
_RESULT_BYTES, _REPORT_BYTES = 2**15, 2**20
"""Bytes for a run's result, and for tables and figures: several times the usual size."""


@contextmanager
def held(folder: Path, *, keeps_runs: bool = True) -> Iterator[None]:
    """Lock a folder, so that no other command trains for it meanwhile.

    The lock is the operating system's: it is released when a process is killed. An exception, Ctrl-C and SIGTERM get a
    note that says how to continue.

    Args:
        folder: created if it is missing.
        keeps_runs: whether it stores each finished run.

    Raises:
        RunError: another command holds it, or nothing can be written there.
    """
    check_folder(folder, keeps_runs=keeps_runs)
    lock = filelock.FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise RunError(
            f"{folder}: another command{_holder(folder)} trains for this folder. Wait until it ends, or choose "
            f"another one with --out."
        ) from error
    except (OSError, NotImplementedError) as error:
        raise RunError(f"{folder}: cannot be locked: {error}. Choose a folder of a local disk with --out.") from error
    kept = f"The finished runs are kept in {folder}. To continue" if keeps_runs else "To run it again"
    note = f"{kept}: {command_line()}"
    try:
        with suppress(OSError):
            (folder / _HOLDER).write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
        with terminable(note):
            yield
    except BaseException as error:
        # gradreg's other errors say what to change in the command.
        if keeps_runs or isinstance(error, RunError) or not isinstance(error, GradregError):
            add_note(error, note)
        raise
    finally:
        with suppress(OSError):
            (folder / _HOLDER).unlink()
        lock.release()


def check_folder(folder: Path, runs: int = 0, *, keeps_runs: bool = True) -> None:
    """Make a folder and its folder of runs, and check that results can be written there.

    Args:
        folder: the folder for the results.
        runs: the number of runs to come, for which there must be room.
        keeps_runs: whether the folder of runs is needed.

    Raises:
        RunError: results cannot be written; the message says why.
    """
    place = folder / RUNS if keeps_runs else folder
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(_REPORT_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except (FileExistsError, NotADirectoryError) as error:
        raise RunError(
            f"{place}: there is a file in place of the folder. Remove it, or choose another folder with --out."
        ) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "Make room" if full else "Allow it"
        raise RunError(
            f"{place}: cannot be written: {error.strerror}. {remedy}, or choose another folder with --out."
        ) from error
    if (folder / EXPORT).is_dir():
        raise RunError(
            f"{folder / EXPORT}: there is a folder in place of the file. Remove it, or choose another folder with "
            f"--out."
        )
    needed, free = _REPORT_BYTES + runs * _RESULT_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise RunError(
            f"{folder}: {runs} runs need up to {needed / 1e6:.1f} MB, but only {free / 1e6:.1f} MB are free. Make "
            f"room, or choose another folder with --out."
        )


def _holder(folder: Path) -> str:
    try:
        return f" ({(folder / _HOLDER).read_text(encoding='utf-8')})"
    except (OSError, ValueError):
        return ""
