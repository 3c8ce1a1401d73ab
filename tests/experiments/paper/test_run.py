"""Runs of the paper's protocol on synthetic images."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gradreg_core.presets import DataGrad, SpectReg
from gradreg_experiments.data.mnist import split_files
from gradreg_experiments.paper.cells import CellExperiment
from gradreg_experiments.paper.experiment import Settings
from gradreg_experiments.paper.experiments import experiments
from gradreg_experiments.paper.run import image_plan, run_jobs
from gradreg_experiments.trainers import load_trainer, trainable


def plan_of(job, files):
    return image_plan(job, split_files(files, job.protocol.train_size, job.seed))


def test_the_masks_of_the_two_passes_differ_and_are_scaled(make_job, tiny, files):
    steps = plan_of(make_job(protocol=replace(tiny, before_last="dropout"), reg=SpectReg(0.1)), files).steps(0, 4)
    (path,) = steps.masks
    assert not np.array_equal(steps.masks[path], steps.apart_masks[path])
    assert set(np.unique(steps.masks[path])) == {0.0, 2.0}
    assert not np.array_equal(steps.masks[path][0], steps.masks[path][1])


def assert_complete(result, backend):
    assert 0 <= result["accuracy"]["test"] <= 100
    assert len(result["robustness"]["pgd"]) == 3
    assert result["jacobian_frobenius"] > 0
    assert not result["diverged"]
    assert set(result["versions"]) == {"gradreg", "numpy", backend}
    json.dumps(result, allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("backend", [name for name in trainable() if name != "jax"])
def test_one_run(backend, make_job, tiny, files):
    protocol = replace(tiny, before_last="dropout")
    (result,) = run_jobs([make_job(backend, protocol, SpectReg(0.01, draw="per_batch"))], files)
    assert_complete(result, backend)


@pytest.mark.slow
@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("before_last", "reg", "extra"),
    [
        ("dropout", SpectReg(0.1, draw="per_batch"), {}),
        ("dropout", DataGrad(0.1, fraction=0.5), {}),
        ("dropout", DataGrad(0.1, side="input", method="difference"), {}),
        ("batchnorm", DataGrad(0.1), {}),
        ("none", None, {"mixup": 0.3, "label_smoothing": 0.1, "activation": "gelu"}),
    ],
    ids=["dropout", "dropout, half a batch", "dropout, difference", "batchnorm", "mixup"],
)
def test_frameworks_start_on_the_same_curve(before_last, reg, extra, make_job, tiny, files):
    protocol = replace(tiny, before_last=before_last, dtype="float64", **extra)
    curves = {
        backend: load_trainer(backend).train(plan_of(make_job(backend, protocol, reg), files)).losses
        for backend in trainable()
    }
    for curve in curves.values():
        # Four steps: rounding of 1e-16, amplified by Adam's division where a gradient is near 0.
        assert curve == pytest.approx(curves["torch"], rel=1e-8)


CELLS = [name for name, record in experiments().items() if isinstance(record, CellExperiment)]


@pytest.mark.parametrize("name", [name for name in CELLS if name != "figure1-left"])
def test_every_cell_trains(name, tiny, files):
    for job in experiments()[name].jobs(Settings(seeds=[1], protocol=tiny, data="synthetic")):
        protocol = replace(job.protocol, train_size=tiny.train_size, steps=2)
        losses = load_trainer("torch").train(plan_of(replace(job, protocol=protocol), files)).losses
        assert np.isfinite(losses).all(), job


def test_the_penalty_is_trained(make_job, tiny, files):
    norms = {
        weight: run_jobs([make_job("torch", replace(tiny, steps=25), DataGrad(weight))], files)[0]["jacobian_frobenius"]
        for weight in (0.0, 100.0)
    }
    assert norms[100.0] < 0.8 * norms[0.0]


@pytest.mark.slow
def test_several_seeds_in_jax_train_as_alone(make_job, tiny, files):
    protocol = replace(tiny, before_last="dropout", dtype="float64")
    jobs = [make_job("jax", protocol, SpectReg(1.0, seed=seed), seed=seed) for seed in (1, 2)]
    together, (alone,) = run_jobs(jobs, files), run_jobs(jobs[1:], files)
    for result in (*together, alone):
        assert_complete(result, "jax")
    assert [result["key"] for result in together] == [job.key for job in jobs]
    assert (together[1]["together"], alone["together"]) == (2, 1)
    assert together[1]["losses"] == pytest.approx(alone["losses"], rel=1e-6)  # as many digits as are written
    assert together[1]["jacobian_frobenius"] == pytest.approx(alone["jacobian_frobenius"], rel=1e-4)  # float32
