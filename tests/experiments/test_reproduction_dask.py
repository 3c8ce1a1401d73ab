"""Runs of the reproduction on a real Dask cluster of this machine's processes."""

import os
import sys
from pathlib import Path

import cloudpickle
import pytest

from gradreg_core.presets import WeightDecay
from gradreg_experiments.paper.protocol import Job, Protocol
from gradreg_experiments.paper.results import Results
from gradreg_experiments.paper.sweep import missing, sweep

distributed = pytest.importorskip("distributed")


def fatal_once(job: Job, files: Path, tick: object = None) -> dict[str, object]:
    """A run that ends its worker's process the first time that it is tried with seed 2."""
    tried = files / f"seed-{job.seed}"
    first = not tried.exists()
    tried.touch()
    if job.seed == 2 and first:
        os._exit(1)
    return {"key": job.key, "seed": job.seed, "pid": os.getpid()}


@pytest.mark.filterwarnings("default")  # Dask's own, when a worker goes
def test_a_worker_that_dies_costs_no_run(tmp_path: Path) -> None:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    jobs = [Job(Protocol(train_size=10, steps=1, batch=10), WeightDecay(1.0), seed, "torch", "x") for seed in range(6)]
    results = Results(tmp_path / "results.jsonl")
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster:
        assert sweep(jobs, tmp_path, results, scheduler=cluster.scheduler_address, function=fatal_once) == 6
    found = list(results)
    assert sorted(each["seed"] for each in found) == list(range(6))
    assert os.getpid() not in {each["pid"] for each in found}
    assert missing(jobs, Results(results.path)) == []
    assert len(results.path.read_text().splitlines()) == 6
