"""The joint space of calls: its design has every pair of choices, and its calls are what they say."""

import numpy as np
import pytest
from mutants import MUTANTS

from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement
from gradreg_conformance.checks import joint as check
from gradreg_conformance.design import ABSENT, Space, covering
from gradreg_conformance.joint import case_of, design_of
from gradreg_conformance.reference import expected_gradient, expected_slopes, slopes_of
from gradreg_conformance.reproduce import *  # noqa: F403 - what a printed case is made of
from gradreg_conformance.runner import all_checks, run_check
from gradreg_conformance.subject import Subject
from gradreg_core.presets import ConfidencePenalty, DataGrad
from gradreg_torch.harness import TorchHarness

FACTORS = {"a": (0, 1, 2), "b": (False, True), "c": ("x", "y", "z"), "d": (None, 1)}


def test_a_design_has_every_pair_in_few_examples():
    design = covering(Space(FACTORS, dict))
    pairs = {(m, one[m], n, one[n]) for one in design.choices for m in one for n in one if m < n}
    assert len(pairs) == design.covered[-1] == 3 * 2 + 3 * 3 + 3 * 2 + 2 * 3 + 2 * 2 + 3 * 2
    assert len(design.choices) <= 12  # nine are the least for two factors of three levels
    assert covering(Space(FACTORS, dict)) == design


def test_choices_that_do_not_go_together_are_no_pairs():
    def settled(one):
        return {**one, "c": ABSENT if one["b"] else one["c"], "d": None if one["a"] == 2 else one["d"]}

    design = covering(Space(FACTORS, settled))
    assert all(one["c"] == ABSENT for one in design.choices if one["b"])
    assert not any(one["a"] == 2 and one["d"] for one in design.choices)
    # Of the 37 pairs, three of b and c, and one of a and d are not possible.
    assert design.covered[-1] == 37 - 3 - 1


def test_settling_a_settled_choice_changes_nothing():
    design = design_of(TorchHarness())
    assert all(design.space.settled(one) == one for one in design.choices)


def test_most_pairs_are_in_the_calls_of_the_quick_profile():
    design = design_of(TorchHarness())
    assert design.covered[40] > 0.8 * design.covered[-1]
    assert len(design.choices) <= 200  # of the default profile


@pytest.mark.parametrize("index", [0, 3, 12, 25, 60])
def test_a_call_prints_the_code_that_makes_it(index):
    case, _ = case_of(design_of(TorchHarness()).choices[index], index)
    assert eval(repr(case)) == case


def test_slopes_are_the_gradients_along_their_directions():
    network = Network((2,), (Dense(2), Activation("tanh"), Dense(3)))  # noqa: F405
    case = Case(network, DataGrad(1.0) + ConfidencePenalty(2.0))
    gradients = expected_gradient(case, "total").arrays
    np.testing.assert_allclose(
        expected_slopes(case, "total")["slopes"].arrays["slopes"], slopes_of(case, gradients), rtol=1e-12
    )


def test_a_failure_names_the_choices_that_it_needs():
    with MUTANTS["part_drawn_by_position_although_numbers_are_given"].make() as harness:
        subject = Subject("mutant", harness)
        with pytest.raises(Disagreement) as raised:
            all_checks()["calls_with_all_options"](subject)
    needed = str(raised.value).partition("\nIt needs ")[2].partition("}")[0]
    assert "'ids': 'given'" in needed
    assert "part" in needed
    assert needed.count(":") <= 4
    assert "compare('mutant', case," in str(raised.value)


def test_the_pairs_that_were_run_are_in_the_result(monkeypatch):
    monkeypatch.setattr(check, "_CALLS", 1)
    result = run_check(all_checks()["calls_with_all_options"], Subject("torch", TorchHarness()))
    design = design_of(TorchHarness())
    assert result.ok
    assert result.pairs == (design.covered[5], design.covered[-1])
