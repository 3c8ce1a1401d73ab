"""Runs several backends, each in a process of its own: frameworks in one process disturb each other."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from gradreg_conformance.report import Report, read_reports

__all__ = ["run_each"]


def run_each(names: Sequence[str], profile: str, device: str, options: Sequence[str]) -> list[Report]:
    """The reports of `gradreg conformance NAME`, one process after the other, which print their own tables.

    Args:
        names: of the backends.
        profile: of the command.
        device: of the command; empty for each backend's first.
        options: further ones of the command.
    """
    reports = []
    with TemporaryDirectory() as folder:
        for index, name in enumerate(names):
            file = Path(folder) / f"{index}.json"
            own = [f"--profile={profile}", f"--device={device}", *options]
            # -P: modules are not looked for in the working directory.
            command = [sys.executable, "-P", "-m", "gradreg_core.cli.main", "conformance", name, *own]
            done = subprocess.run([*command, "--part", f"--report={file}"], check=False)  # noqa: S603 - our own
            if file.exists():
                reports += read_reports(file)
            else:
                reports.append(Report.broken(name, profile, device, _ended(done.returncode)))
    return reports


def _ended(status: int) -> str:
    if status >= 0:
        return f"the process ended with exit status {status} and no report"
    try:
        return f"the process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"the process was ended by signal {-status}"
