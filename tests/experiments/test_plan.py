"""Plans: what a seed decides does not depend on how a run is cut, and no two samples share a mask."""

import numpy as np
import pytest

from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_experiments.plan import Masks, permuted_batches, unseeded


def test_parts_of_a_batch_share_no_mask():
    masks = Masks({"8": np.arange(6)[:, None]})
    for counts in ((6,), (2, 4), (6,)):
        assert [row for count in counts for row in masks.next(count)["8"][:, 0]] == list(range(6))
    assert Masks({}).next(3) == {}


def test_a_pass_over_the_data_has_every_sample_once():
    batches = permuted_batches(40, 10, 6, np.random.default_rng(0))
    assert batches.shape == (6, 10)
    assert sorted(batches[:4].ravel()) == list(range(40))
    assert permuted_batches(7, 10, 2, np.random.default_rng(0)).shape == (2, 7)


def test_seeds_of_terms_are_what_runs_differ_in():
    first, second = (SpectReg(0.1, seed=seed) + WeightDecay(0.5) for seed in (1, 2))
    assert unseeded(first) == unseeded(second)
    assert unseeded(first) != unseeded(SpectReg(0.2, seed=1) + WeightDecay(0.5))
    assert unseeded(None) is None


def test_schedules_are_evaluated_for_each_step(small_plan):
    plan = small_plan(reg=DataGrad(lambda step: 0.5 * step) + WeightDecay(0.1), apart=SpectReg(lambda step: step + 1))
    steps = plan.steps(1, 4)
    assert {name: values.tolist() for name, values in steps.weights.items()} == {
        "reg.0": [0.5, 1.0, 1.5],
        "apart.0": [2, 3, 4],
    }
    reg, apart = plan.terms({"reg.0": 7.0, "apart.0": 8.0})
    assert [term.weight_at(0) for term in reg.terms] == [7.0, 0.1]
    assert apart.terms[0].weight_at(3) == 8.0
    assert small_plan(reg=WeightDecay(0.1)).terms({}) == (WeightDecay(0.1), None)


@pytest.mark.parametrize("chunk", [1, 2, 7])
def test_steps_do_not_depend_on_the_cut(small_plan, chunk):
    plan = small_plan(
        chunk=chunk,
        apart=SpectReg(0.1),
        apart_masks=lambda step: {"3": np.full((4, 5), step)},
        mixing=lambda step: (np.roll(np.arange(4), step), 0.1 * step),
    )
    whole = plan.steps(0, 5)
    parts = list(plan.chunks())
    for name in ("numbers", "batches", "rates", "partners", "shares"):
        np.testing.assert_array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(whole, name))
    for name in ("masks", "apart_masks"):
        pieces = [getattr(part, name)["3"] for part in parts]
        np.testing.assert_array_equal(np.concatenate(pieces), getattr(whole, name)["3"])
