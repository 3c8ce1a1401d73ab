"""Losses of several frameworks side by side."""

import numpy as np
import pytest

from gradreg_experiments.curves import Curves, curve_table


def test_drift_is_the_largest_relative_difference_so_far():
    curves = Curves("x", "float32", {"a": np.ones(4), "b": np.array([1, 1 + 1e-4, 1, 1.5])})
    assert curves.reference == "a"
    assert curves.drift("b") == pytest.approx([0, 1e-4, 1e-4, 0.5])
    assert curves.drift("a", "b") == pytest.approx([0, 1e-4, 1e-4, 1 / 3], rel=1e-3)
    assert curves.together("b") == {1e-5: 1, 1e-3: 3, 1e-1: 3}
    assert curve_table([curves])[1] == [("x", "float32", "b against a", "0e+00", "step 1", "step 3", "step 3")]
