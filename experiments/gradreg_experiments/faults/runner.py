"""Faults of the runner: kills, signals, two runners, folders that cannot be written, clusters that disappear."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from gradreg_experiments.faults.processes import (
    COUNT,
    Ended,
    alive,
    children,
    done_now,
    ended,
    lost,
    resume,
    runs_there,
    start,
    wait_for,
)

__all__ = ["FAULTS", "Fault"]

Fault = Callable[[Path, int], str]
"""A function (an empty folder, the repetition's number) -> the problem, or an empty string."""
_SOON = 10.0
"""Seconds within which workers must end and errors must appear, on a busy machine."""


def _stopped(number: int, workers: int, status: int, again: str, *, compiled: bool = False) -> Fault:
    """Signal the runner midway; its workers end, and the same command resumes with nothing lost.

    Args:
        number: the number of the signal.
        workers: the number of the runner's processes.
        status: the expected exit status.
        again: the message that says how to continue.
        compiled: whether the runs are in a call of compiled code, which does not handle signals.
    """

    def fault(folder: Path, repetition: int) -> str:
        options = [f"--workers={workers}", "--seconds=0.3"]
        process = start(folder, *options, *(["--compiled"] if compiled else []))
        least = 2 if compiled else repetition % 4
        wait_for(lambda: runs_there(folder) > least or process.poll() is not None)
        if compiled:
            time.sleep(1)
        own = children(process.pid)
        process.send_signal(number)
        begin = time.monotonic()
        end = ended(process)
        wait_for(lambda: not alive(own), _SOON)
        if time.monotonic() - begin > _SOON:
            return "it took too long to stop"
        before = runs_there(folder)
        if end.status != status:
            return f"status {end.status}: {end.stderr[-200:]}"
        if end.status and again not in end.stderr:
            return f"no message on how to continue: {end.stderr[-200:]}"
        more = resume(folder, *options)
        if more.status or done_now(more) != COUNT - before:
            return f"{before} runs were there, then: {more}"
        return lost(folder, before)

    return fault


def _killed_worker(folder: Path, repetition: int) -> str:
    process = start(folder, "--workers=2")
    wait_for(lambda: runs_there(folder) > 1 or process.poll() is not None)
    workers = [
        number for number in children(process.pid) if b"loky" in _command(number) and b"tracker" not in _command(number)
    ]
    if not workers:
        process.kill()
        ended(process)
        return "no worker was there"
    os.kill(workers[repetition % len(workers)], signal.SIGKILL)
    end = ended(process)
    before = runs_there(folder)
    if end.status not in (0, 2) or (end.status and "To continue: " not in end.stderr):
        return f"status {end.status}: {end.stderr[-200:]}"
    more = resume(folder, "--workers=2")
    return lost(folder, before) if not more.status else str(more)


def _command(number: int) -> bytes:
    try:
        return Path(f"/proc/{number}/cmdline").read_bytes()
    except OSError:
        return b""


def _two_runners(folder: Path, repetition: int) -> str:
    first = start(folder)
    wait_for(lambda: runs_there(folder) > 0 or first.poll() is not None)
    second = resume(folder)
    end = ended(first)
    if second.status == 0 and done_now(second) == 0:
        return lost(folder, COUNT)  # it started after the first had ended
    if second.status != 2 or "another command (process" not in second.stderr or end.status or done_now(end) != COUNT:
        return f"{second}, {end}"
    return lost(folder, COUNT)


def _refused(made: Callable[[Path], Path], *words: str, limit: int | None = None) -> Fault:
    """Refuse an unusable folder before the first run."""

    def fault(folder: Path, repetition: int) -> str:
        begin = time.monotonic()
        if limit is None:
            end = resume(made(folder))
        else:
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
            try:
                end = resume(made(folder))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
        return _one_line(end, begin, *words)

    return fault


def _one_line(end: Ended, begin: float, *words: str, within: float = _SOON * 2) -> str:
    lines = end.stderr.splitlines()
    if end.status != 2 or len(lines) != 1 or not any(word in lines[0] for word in words):
        return str(end)
    return "" if time.monotonic() - begin < within else "it took too long"


def _file_in_place(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "file").touch()
    return folder / "file"


def _runs_in_place(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "runs").touch()
    return folder


def _full_later(folder: Path, repetition: int) -> str:
    """The disk is full after some runs: no file is incomplete, and the same command resumes once there is room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**19, before[1]))
    options = [f"--workers={1 + repetition % 2}", f"--payload={2**21}", "--seconds=0.01"]
    try:
        end = resume(folder, *options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = runs_there(folder)
    if end.status != 2 or "File too large" not in end.stderr or "To continue: " not in end.stderr:
        return str(end)
    more = resume(folder, *options)
    if more.status or done_now(more) != COUNT - kept:
        return str(more)
    return lost(folder, kept)


def _no_scheduler(folder: Path, repetition: int) -> str:
    begin = time.monotonic()
    return _one_line(
        resume(folder, "--scheduler=tcp://127.0.0.1:9"), begin, "no Dask scheduler answers", within=_SOON * 3
    )


def _cluster(folder: Path, *worker: str) -> tuple[str, list["subprocess.Popen[bytes]"]]:
    """The address of a scheduler with one worker of one thread, and their processes."""
    file = folder / "scheduler.json"
    tool = "from distributed.cli.dask_{} import main; main()"
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    started = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", tool.format(name), *arguments],
            env=path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for name, arguments in (
            ("scheduler", ["--host=127.0.0.1", "--port=0", "--no-dashboard", f"--scheduler-file={file}"]),
            ("worker", [f"--scheduler-file={file}", "--nthreads=1", "--no-nanny", "--no-dashboard", *worker]),
        )
    ]
    wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
    return json.loads(file.read_text())["address"], started


def _end(processes: list["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def _dead_scheduler(folder: Path, repetition: int) -> str:
    """Kill the scheduler midway: the error names the command that resumes, and nothing is lost."""
    with TemporaryDirectory() as place:
        address, cluster = _cluster(Path(place))
        try:
            process = start(folder, f"--scheduler={address}", "--seconds=0.3")
            wait_for(lambda: runs_there(folder) > 1 or process.poll() is not None)
            cluster[0].kill()
            begin = time.monotonic()
            end = ended(process)
        finally:
            _end(cluster)
    if end.status != 2 or "To continue: " not in end.stderr or time.monotonic() - begin > 60:
        return str(end)
    before = runs_there(folder)
    more = resume(folder)
    return lost(folder, before) if not more.status and done_now(more) == COUNT - before else str(more)


def _poor_worker(folder: Path, repetition: int) -> str:
    """The error names a worker without gradreg; nothing runs."""
    with TemporaryDirectory() as place:
        (Path(place) / "poor.py").write_text("import sys; sys.modules['gradreg_core'] = None\n")
        address, cluster = _cluster(Path(place), f"--preload={place}/poor.py")
        try:
            begin = time.monotonic()
            end = resume(folder, f"--scheduler={address}")
        finally:
            _end(cluster)
    if runs_there(folder):
        return "a run was done"
    lines = [line for line in end.stderr.splitlines() if line.startswith("error: ")]
    right = end.status == 2 and len(lines) == 1 and "gradreg cannot be imported: tcp://" in lines[0]
    return "" if right and time.monotonic() - begin < _SOON * 3 else str(end)


FAULTS: dict[str, tuple[Fault, float]] = {
    "kill -9 of the runner, one process": (_stopped(signal.SIGKILL, 1, -9, ""), 1),
    "kill -9 of the runner, two workers": (_stopped(signal.SIGKILL, 2, -9, ""), 1),
    "SIGTERM, one process": (_stopped(signal.SIGTERM, 1, 143, "To continue: "), 1),
    "SIGTERM, two workers": (_stopped(signal.SIGTERM, 2, 143, "To continue: "), 1),
    "Ctrl-C, two workers": (_stopped(signal.SIGINT, 2, 130, "To continue: "), 1),
    "SIGTERM in compiled code, one process": (_stopped(signal.SIGTERM, 1, 143, "To continue: ", compiled=True), 0.3),
    "Ctrl-C in compiled code, one process": (_stopped(signal.SIGINT, 1, 130, "To continue: ", compiled=True), 0.3),
    "SIGTERM, two workers in compiled code": (_stopped(signal.SIGTERM, 2, 143, "To continue: ", compiled=True), 0.3),
    "kill -9 of the runner, two workers in compiled code": (_stopped(signal.SIGKILL, 2, -9, "", compiled=True), 0.3),
    "kill -9 of a worker": (_killed_worker, 1),
    "a second runner on the folder": (_two_runners, 1),
    "no room from the start": (_refused(lambda folder: folder, "cannot be written: File too large", limit=2**19), 0.5),
    "no room after some runs": (_full_later, 1),
    "a folder that takes no files": (_refused(lambda _: Path("/proc/runs"), "cannot be written"), 0.5),
    "a file in place of the folder": (_refused(_file_in_place, "there is a file in place"), 0.5),
    "a file in place of its folder of runs": (_refused(_runs_in_place, "there is a file in place"), 0.5),
    "no scheduler": (_no_scheduler, 0.2),
    "kill -9 of the scheduler": (_dead_scheduler, 0.2),
    "a worker of the cluster without gradreg": (_poor_worker, 0.2),
}
"""By name: the fault, and its relative number of repetitions."""
