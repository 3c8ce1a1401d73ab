"""Portable networks in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradreg_core.portable.networks import Dense, Dropout, MaxPool, Network
from gradreg_jax.networks import apply


@pytest.mark.slow
def test_the_first_of_equal_maxima_takes_the_derivative() -> None:
    pool = Network((5, 4, 1), (MaxPool(2),))
    x = jnp.zeros((1, 5, 4, 1)).at[0, 1, 1].set(1).at[0, 2, 3].set(1).at[0, 3, 2].set(1)
    slope = jax.grad(lambda x: apply(pool, {}, x).sum())(x)
    expected = np.zeros((5, 4))
    for place in [(1, 1), (0, 2), (2, 0), (2, 3)]:
        expected[place] = 1
    np.testing.assert_array_equal(slope[0, :, :, 0], expected)
    assert np.isnan(apply(pool, {}, x.at[0, 0, 0].set(jnp.nan))[0, 0, 0, 0])
    assert np.isnan(apply(pool, {}, x.at[0, 1, 1].set(jnp.nan))[0, 0, 0, 0])


def test_dropout_masks_are_applied_by_path() -> None:
    net = Network((3,), (Dropout(), Dense(2)))
    params = {"1.weight": jnp.ones((3, 2)), "1.bias": jnp.zeros(2)}
    mask = np.array([[0.0, 2.0, 2.0]])
    np.testing.assert_array_equal(apply(net, params, np.ones((1, 3)), {"0": mask}), [[4, 4]])
    np.testing.assert_array_equal(apply(net, params, np.ones((1, 3))), [[3, 3]])
