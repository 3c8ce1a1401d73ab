"""The folder of a command that trains: refused before the first run, and held by one command."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from gradreg_core.cli.stopping import Terminated
from gradreg_core.errors import RunError
from gradreg_experiments import folder as module
from gradreg_experiments.folder import check_folder, held
from gradreg_experiments.results import EXPORT, RUNS, Results
from gradreg_experiments.runner import run_missing


def test_a_folder_is_held_once_and_free_afterwards(tmp_path):
    with held(tmp_path / "new"):
        message = rf"another command \(process {os.getpid()} on .*\) trains for this folder"
        with pytest.raises(RunError, match=message), held(tmp_path / "new"):
            pass
    with held(tmp_path / "new"):
        pass


def test_what_stops_a_command_says_how_to_go_on(tmp_path):
    with pytest.raises(ValueError, match="odd") as caught, held(tmp_path):
        raise ValueError("odd")
    (note,) = caught.value.__notes__
    assert note.startswith(f"The finished runs are kept in {tmp_path}. To continue: ")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as stopped, held(tmp_path, keeps_runs=False):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.__notes__[0].startswith("To run it again: ")
    assert stopped.value.status == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_places_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="there is a file in place of the folder"):
        check_folder(tmp_path / "file")
    (tmp_path / "a" / EXPORT).mkdir(parents=True)
    with pytest.raises(RunError, match="there is a folder in place of the file"):
        check_folder(tmp_path / "a")
    with pytest.raises(RunError, match="cannot be written"):
        check_folder(Path("/proc/acme"))
    usage = shutil.disk_usage(tmp_path)._replace(free=2**21)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: usage)
    check_folder(tmp_path / "b", runs=10)
    with pytest.raises(RunError, match=r"1000 runs need up to 33\.8 MB, but only 2\.1 MB are free"):
        check_folder(tmp_path / "b", runs=1000)


def test_nothing_is_run_for_a_folder_that_cannot_be_written(make_job, tmp_path):
    results = Results(tmp_path)
    (tmp_path / RUNS).touch()

    def never(jobs, data, tick):
        raise AssertionError("it ran")

    with pytest.raises(RunError, match="there is a file in place of the folder"):
        run_missing([make_job()], never, None, results)
