"""The demo's experiment: what it says of itself is true."""

from dataclasses import replace

import numpy as np
import pytest

from gradreg_experiments.data.digits import Part
from gradreg_experiments.demo import experiment as module
from gradreg_experiments.demo.experiment import TUNING_SEED, Tuning, experiment, run_trials, tune
from gradreg_experiments.demo.methods import METHODS


def poisoned(part):
    generator = np.random.default_rng(0)
    return Part(generator.permutation(part.x.ravel()).reshape(part.x.shape), (part.y + 1) % 10)


def without_seconds(outcome):
    times = {"seconds": 0, "cpu_seconds": 0}
    return {name: [run | times for run in runs] for name, runs in outcome.runs.items()}


@pytest.mark.slow
def test_tuning_never_sees_the_test_part(digits, outcome, settings):
    spoilt = experiment(digits._replace(test=poisoned(digits.test)), settings)
    assert spoilt.tunings == outcome.tunings
    assert spoilt.runs["none"][0]["accuracy"] != outcome.runs["none"][0]["accuracy"]
    # The same poison in the validation part is noticed, so the test can fail.
    assert tune(digits._replace(validation=poisoned(digits.validation)), settings) != outcome.tunings


def test_tuning_takes_the_best_on_validation_over_seeds_of_its_own(digits, settings, monkeypatch):
    runs = []

    def recorded(jobs, data, tick):
        results = run_trials(jobs, data, tick)
        runs.extend(zip(jobs, results, strict=True))
        assert data.test is None
        return results

    monkeypatch.setattr(module, "run_trials", recorded)
    tunings = tune(digits, replace(settings, tuning_seeds=2, seeds=3))
    assert {job.seed for job, _ in runs} == {TUNING_SEED, TUNING_SEED + 1}
    assert all(job.protocol.part == "validation" for job, _ in runs)
    for method in METHODS:
        for weight, score in tunings[method.name].scores.items():
            own = [
                result["accuracy"]
                for job, result in runs
                if (job.regularizer, job.protocol.dropout) == (method.make(weight, job.seed), method.dropout(weight))
            ]
            assert score == pytest.approx(np.mean(own))
            assert len(own) == 2
            assert score <= tunings[method.name].scores[tunings[method.name].weight]


def test_of_equal_scores_the_smallest_weight_is_taken_and_edges_are_told():
    assert Tuning(1.0, {1.0: 0.5, 2.0: 0.5, 3.0: 0.1}).at_edge
    assert not Tuning(2.0, {1.0: 0.4, 2.0: 0.5, 3.0: 0.1}).at_edge
    assert not Tuning(0.0, {}).at_edge


@pytest.mark.slow
def test_the_same_comparison_gives_the_same_numbers_in_any_number_of_processes(digits, outcome, settings, monkeypatch):
    monkeypatch.setattr(module, "METHODS", [method for method in METHODS if method.name in ("none", "DataGrad")])
    again, spread = (experiment(digits, replace(settings, workers=workers)) for workers in (1, 2))
    assert without_seconds(again) == {name: without_seconds(outcome)[name] for name in ("none", "DataGrad")}
    for name, runs in spread.runs.items():
        assert runs[0]["accuracy"] == outcome.runs[name][0]["accuracy"]
        assert runs[0]["jacobian_frobenius"] == pytest.approx(outcome.runs[name][0]["jacobian_frobenius"], rel=1e-5)
