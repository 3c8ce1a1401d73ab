"""Derivatives by differences, with their own error."""

import numpy as np
import pytest

from gradreg_sweep.differences import derivative


def test_a_derivative_and_its_error() -> None:
    exact = np.array([1.0, 3.0])
    estimate = derivative(lambda t: np.array([np.sin(t), np.exp(3 * t)]))
    assert np.linalg.norm(estimate.value - exact) < 1e-11
    assert np.linalg.norm(estimate.value - exact) <= 10 * estimate.error + 1e-14
    assert not estimate.kinked


def test_a_kink_aside_is_avoided_and_one_at_hand_is_noticed() -> None:
    aside = derivative(lambda t: np.asarray(np.sin(t) + max(t - 0.01, 0)))
    assert float(aside.value) == pytest.approx(1, abs=1e-6)
    assert derivative(lambda t: np.asarray(np.sin(t) + max(t - 1e-9, 0))).kinked
    assert derivative(lambda t: np.asarray(np.sin(t) + np.sign(t - 1e-9))).kinked


def test_rounding_to_float32_shows_in_the_error() -> None:
    estimate = derivative(lambda t: np.asarray(np.float32(np.exp(t + 0.3))), 2.0**-23)
    assert 1e-9 < abs(float(estimate.value) - np.exp(0.3)) <= 10 * estimate.error
