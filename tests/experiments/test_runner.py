"""The runner: what is missing is run once, here and in several processes, with equal results."""

import os
import subprocess
import sys
import time

import pytest

from gradreg_core.errors import UnsupportedError
from gradreg_core.presets import SpectReg
from gradreg_experiments.results import EXPORT, RUNS, Results
from gradreg_experiments.runner import missing, run_missing


def stand_in(jobs, data, tick):
    """Stands in for runs."""
    return [{"key": job.key, "seed": job.seed, "together": len(jobs), "pid": os.getpid()} for job in jobs]


def test_finished_runs_are_not_repeated(make_job, tmp_path):
    jobs = [make_job(seed=seed) for seed in (1, 2, 3)]
    assert run_missing(jobs[:2], stand_in, None, Results(tmp_path)) == 2
    before = {path: path.read_bytes() for path in (tmp_path / RUNS).iterdir()}
    results = Results(tmp_path)
    assert missing(jobs, results) == [jobs[2]]
    assert run_missing([*jobs, jobs[2]], stand_in, None, results) == 1
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(Results(tmp_path)) == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_are_spread_over_processes(make_job, workers):
    jobs = [make_job(seed=seed) for seed in range(4)]
    results = Results()
    assert run_missing(jobs, stand_in, None, results, workers=workers) == 4
    assert sorted(result["seed"] for result in results) == [0, 1, 2, 3]
    assert all((result["pid"] == os.getpid()) == (workers == 1) for result in results)


def test_jobs_that_differ_in_their_seeds_only_are_run_together(make_job, tiny):
    jobs = [make_job(reg=SpectReg(weight, seed=seed), seed=seed) for seed in range(3) for weight in (1.0, 2.0)]
    results = Results()
    run_missing(jobs, stand_in, None, results, together=2)
    assert [results[job.key]["together"] for job in jobs] == [2, 2, 2, 2, 1, 1]


def test_a_backend_that_does_not_train_is_refused_before_the_work(make_job):
    with pytest.raises(UnsupportedError, match="numpy backend does not train"):
        run_missing([make_job(), make_job("numpy")], stand_in, None, Results())


@pytest.mark.slow
def test_a_killed_command_goes_on_where_it_was(folder, tmp_path):
    arguments = [
        *("reproduce", "table1", "--data-dir", str(folder), "--unverified-data", "--out", str(tmp_path)),
        *("--steps", "2", "--seeds", "1", "--cells", "baseline/*"),
    ]
    code = (
        "import sys, dataclasses, gradreg_experiments.paper.command as command\n"
        "Protocol = command.Protocol\n"
        "command.Protocol = lambda **fields: dataclasses.replace(Protocol(**fields), train_size=40)\n"
        "from gradreg_core.cli.main import main\n"
        "main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(f"{RUNS}/[!.]*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    kept = Results(tmp_path)
    assert len(kept) >= 1
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{3 - len(kept)} of 3 runs done now" in done.stdout
    assert len((tmp_path / EXPORT).read_text().splitlines()) == 3
    for ending in ("md", "png", "svg"):
        assert (tmp_path / f"table1-torch-steps-2.{ending}").stat().st_size > 0
