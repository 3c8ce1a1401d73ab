"""Runs Python in a child process, where a crash or a hang is a result."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ChildResult", "run_python"]

_WITHOUT_WORKING_DIRECTORY = """
import sys
del sys.path[0]
option, target = sys.argv[1:3]
del sys.argv[1:3]
if option == "-m":
    import runpy
    runpy.run_module(target, run_name="__main__", alter_sys=True)
else:
    exec(compile(target, "<string>", "exec"), {"__name__": "__main__"})
"""
"""Does what -P does before ``-m MODULE`` or ``-c CODE``; Python 3.10 does not have it."""


@dataclass(frozen=True)
class ChildResult:
    """The end of a child process, and its output."""

    status: int | None
    """The exit status, minus the number of the signal that ended it, or None if it was stopped at the timeout."""
    stdout: str
    """Empty if the output was not captured; so is `stderr`."""
    stderr: str
    ending: str
    """The end of a sentence such as "the process ...": "ended with exit status 1: ValueError: no such file"."""


def run_python(
    *arguments: str,
    stdin: str = "",
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
    capture: bool = True,
) -> ChildResult:
    """Run this interpreter with other arguments. The child can import every module that this process can.

    Args:
        arguments: ``"-m", "package.module"`` or ``"-c", code``, followed by the program's own.
        stdin: the text that the child can read.
        timeout: seconds after which the child is killed; None for no limit.
        environment: variables to set besides those of this process.
        capture: whether to keep the child's output; otherwise the child prints where this process does.
    """
    path = [entry or str(Path.cwd()) for entry in sys.path]
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(path)}
    # -P: Python does not search for modules in the working directory too.
    safely = ("-P",) if sys.version_info >= (3, 11) else ("-c", _WITHOUT_WORKING_DIRECTORY)
    command = [sys.executable, *safely, *arguments]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, no shell
            command,
            input=stdin,
            capture_output=capture,
            text=True,
            errors="replace",
            timeout=timeout,
            env=variables,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ChildResult(None, "", "", f"did not end within {timeout:g} seconds")
    stdout, stderr = done.stdout or "", done.stderr or ""
    return ChildResult(done.returncode, stdout, stderr, _ending(done.returncode, stderr))


def _ending(status: int, stderr: str) -> str:
    if status < 0:
        try:
            return f"was ended by {signal.Signals(-status).name}"
        except ValueError:
            return f"was ended by signal {-status}"
    last = next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), "")
    return f"ended with exit status {status}" + (f": {last}" if status and last else "")
