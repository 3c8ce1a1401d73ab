"""The rounding error of a penalty that is due to intermediate values."""

from dataclasses import replace

import numpy as np
import pytest

from gradreg_conformance.rounding import moved_model
from gradreg_core.portable.networks import Activation, Dense, Network, Residual
from gradreg_core.projections import exact, orthonormal
from gradreg_core.spec import JacobianPenalty
from gradreg_numpy import Model, penalty

SMALL = Network((1,), (Dense(1), Activation("tanh"), Dense(1)))
SQUARED = JacobianPenalty(1.0, projection=exact())


def params(bias):
    one = np.ones((1, 1))
    return {"0.weight": one, "0.bias": np.array([bias]), "2.weight": one, "2.bias": np.zeros(1)}


@pytest.mark.parametrize("bias", [0.0, 3.0, 6.0])
def test_a_slope_moves_by_an_absolute_amount(bias):
    """The penalty is (1 - t^2)^2. 1 % for the second order of the moves, where the slope itself is 2.5e-5."""
    model, x, size = Model(SMALL, params(bias)), np.zeros((1, 1)), 2.0**-23
    only = replace(moved_model(model, size, 0), params=model.params)
    slope = 1 - np.tanh(bias) ** 2
    change = penalty(only, x, None, SQUARED) - penalty(model, x, None, SQUARED)
    assert abs(change) == pytest.approx(2 * slope * size, rel=0.01)


def test_kinked_activations_keep_their_slopes_and_residual_blocks_do_not():
    layers = (Activation("relu"), Residual((Activation("sigmoid"),)), Activation("leaky_relu"))
    moved = moved_model(Model(Network((2,), layers), {}), 0.1, 0).network.layers
    assert moved[0] == layers[0]
    assert moved[2] == layers[2]
    assert moved[1] != layers[1]
    x = np.ones((1, 2))
    straight = Model(Network((2,), layers), {})
    assert np.array_equal(moved_model(straight, 0.1, 0)(x), straight(x))


def test_draws_that_are_nearly_parallel_move_their_directions_more():
    """Of seed 8, the normals of the third sample have the condition number 18, and those of the second 1.4."""
    rng = np.random.default_rng(0)
    model = Model(Network((3,), (Dense(4),)), {"0.weight": rng.normal(size=(3, 4)), "0.bias": np.zeros(4)})
    reg = JacobianPenalty(1.0, seed=8, projection=orthonormal(2, unbiased=False))

    def change(sample):
        options = {"sample_weight": np.eye(3)[sample], "normalizer": 1.0}
        before = penalty(model, np.zeros((3, 3)), None, reg, **options)
        moves = (replace(model, normals=moved_model(model, 2.0**-30, seed).normals) for seed in range(20))
        after = [penalty(moved, np.zeros((3, 3)), None, reg, **options) for moved in moves]
        return np.sqrt(np.mean((np.array(after) / before - 1) ** 2)) * 2**30

    assert change(2) > 4 * change(1)


def test_moves_are_those_of_the_seed():
    model = Model(SMALL, params(0.5))
    one, same, other = (moved_model(model, 0.1, *seed) for seed in ((0, 1), (0, 1), (0, 2)))
    x = np.ones((3, 1))
    assert np.array_equal(one(x), same(x))
    assert not np.array_equal(one(x), other(x))
