"""Keys: equal for equal settings, and different for different ones."""

from dataclasses import replace

import pytest

from gradreg_core.presets import SpectReg
from gradreg_experiments.paper.experiment import Settings
from gradreg_experiments.paper.experiments import find_experiment


@pytest.mark.parametrize(
    "change",
    [
        {"train_size": 41},
        {"standardise": "train"},
        {"penalty_pass": "shared"},
        {"label_smoothing": 0.1},
        {"dtype": "float64"},
        {"activation": "gelu"},
    ],
)
def test_every_setting_changes_the_key(make_job, tiny, change):
    assert make_job(protocol=replace(tiny, **change)).key != make_job().key


def test_regularizer_seed_backend_data_and_kind_change_the_key(make_job):
    base = make_job(reg=SpectReg(0.01))
    others = [
        make_job(reg=SpectReg(0.02)),
        make_job(reg=SpectReg(0.01, draw="per_batch")),
        make_job(reg=SpectReg(0.01), seed=2),
        make_job("jax", reg=SpectReg(0.01)),
        replace(base, data="other"),
        replace(base, kind="curve"),
    ]
    assert len({base.key, *(job.key for job in others)}) == 7
    assert make_job(reg=SpectReg(0.01)).key == base.key


def test_the_keys_of_published_results_stay():
    job = find_experiment("table1").jobs(Settings(seeds=[1]))[0]
    assert job.key == "06350ea424d766f2"
