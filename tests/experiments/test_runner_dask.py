"""Runs on a real Dask cluster of this machine's processes."""

import os
import sys

import cloudpickle
import pytest

from gradreg_experiments.results import RUNS, Results
from gradreg_experiments.runner import missing, run_missing

distributed = pytest.importorskip("distributed")


def fatal_once(jobs, data, tick):
    """A run that ends its worker's process the first time that it is tried with seed 2."""
    (job,) = jobs
    tried = data / f"seed-{job.seed}"
    first = not tried.exists()
    tried.touch()
    if job.seed == 2 and first:
        os._exit(1)
    return [{"key": job.key, "seed": job.seed, "pid": os.getpid()}]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Dask's own, when a worker goes
def test_a_worker_that_dies_costs_no_run(make_job, tmp_path):
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    jobs = [make_job(seed=seed) for seed in range(6)]
    results = Results(tmp_path)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        assert run_missing(jobs, fatal_once, tmp_path, results, scheduler=cluster.scheduler_address) == 6
    assert sorted(result["seed"] for result in results) == list(range(6))
    assert os.getpid() not in {result["pid"] for result in results}
    assert missing(jobs, Results(tmp_path)) == []
    assert len(list((tmp_path / RUNS).iterdir())) == 6
