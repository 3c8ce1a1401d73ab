"""Rectifiers, maxima and absolute values are smooth for the finite differences of the check."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from gradreg_tensorflow.kinks import smoothed

X = tf.constant(np.linspace(-8.0, 8.0, 41))
"""With 0 and 6, where rectifiers switch."""
KINKS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "relu": tf.nn.relu,
    "relu by keyword": lambda x: tf.nn.relu(features=x),
    "relu6": tf.nn.relu6,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.1),
    "elu": tf.nn.elu,
    "selu": tf.nn.selu,
    "abs": tf.abs,
    "maximum": lambda x: tf.maximum(x, 1.0),
    "minimum": lambda x: tf.math.minimum(1.0, x),
    "max_pool": lambda x: tf.nn.max_pool1d(tf.reshape(x[1:], (1, -1, 1)), 2, 2, "VALID"),
}


def slope(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


@pytest.mark.parametrize("name", KINKS)
def test_slopes_do_not_jump(name: str) -> None:
    function, step = KINKS[name], 1e-6
    with smoothed():
        change = slope(function, X + step) - slope(function, X - step)
    assert np.abs(change).max() < 1e-5  # the second derivative is of order 1
    np.testing.assert_array_equal(function(X).dtype, X.dtype)


@pytest.mark.parametrize("name", KINKS)
def test_values_change_by_less_than_the_scale_of_x(name: str) -> None:
    outside = KINKS[name](X)
    with smoothed():
        change = np.abs(KINKS[name](X) - outside).max()
    assert 0 < change < 1.5 * np.sqrt(np.mean(X**2))


def test_integers_keep_their_kinks() -> None:
    x = tf.range(-4, 4)
    with smoothed():
        np.testing.assert_array_equal(tf.nn.relu(x), np.maximum(x, 0))
        np.testing.assert_array_equal(tf.abs(x), np.abs(x))
        np.testing.assert_array_equal(tf.minimum(x, 1), np.minimum(x, 1))
