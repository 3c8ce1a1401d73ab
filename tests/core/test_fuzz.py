"""Calls with arguments of any type give the right value or gradreg's own error; ``make faults`` makes thousands."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradreg_experiments.faults.arguments import Framework, counted, one_call


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_no_argument_gives_a_wrong_value_or_a_foreign_error(framework: str) -> None:
    backend = Framework(framework)

    @settings(max_examples=60)
    @given(st.randoms(use_true_random=False))
    def drawn(draw: random.Random) -> None:
        outcome = one_call(backend, draw)
        assert outcome.kind != "fault", outcome.text

    drawn()


def test_calls_are_counted_by_what_came_of_them() -> None:
    counts = counted("torch", 60, seed=3)
    assert not counts["failed"]
    assert counts["calls"] == counts["value"] + counts["refused"] + counts["model"]
    assert counts["refused"] > counts["value"] > 0
