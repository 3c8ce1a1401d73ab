"""Double backpropagation by TensorFlow's plain tapes, with and without gradreg's replacements."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from keras import layers
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.ops import gen_image_ops, gen_math_ops, gen_nn_ops, nn_impl

from gradreg_tensorflow.second_order import second_order_safe

Function = Callable[[tf.Tensor], tf.Tensor]
RIGHT = 1e-7
"""Central differences in float64 with a step of 1e-5: the error of the step is 1e-10 times a third derivative of order
a hundred. Measured: below 3e-8."""
WRONG = 1e-4
"""TensorFlow's own errors. Measured: 3e-4 to 8e-1 along a random direction."""
SINGLE = 1e-6
"""Some ten roundings of float32. Measured: 2e-7 to 3e-7."""


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


VECTORS, IMAGES, SEQUENCES = tf.constant(normal(3, 6)), tf.constant(normal(2, 7, 9, 3)), tf.constant(normal(2, 5, 4))
VOLUMES = tf.constant(normal(2, 5, 5, 5, 2))
MATRIX, KERNEL = normal(6, 6, seed=1), normal(3, 3, 3, 3, seed=2) * 0.3
DOUBLE = {"dtype": "float64"}


def surrounded(layer: Any, x: tf.Tensor) -> Function:
    """The layer between nonlinear functions, without which a wrong second derivative does not show."""
    if len(x.shape) == 2:
        before: Function = lambda x: tf.tanh(x @ MATRIX)  # noqa: E731
    elif len(x.shape) == 4:
        before = lambda x: tf.tanh(tf.nn.conv2d(x, KERNEL, 1, "SAME"))  # noqa: E731
    else:
        before = tf.tanh
    return lambda x: tf.sin(layer(before(x)))


def penalty(model: Function, x: tf.Tensor, safe: bool) -> tuple[tf.Tensor, tf.Tensor]:
    """||J^T w||^2 for a fixed w, and its gradient; by plain tapes, so that TensorFlow alone is tested."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with second_order_safe() if safe else contextlib.nullcontext(), tf.GradientTape(persistent=True) as inner:
            inner.watch(x)
            z = model(x)
        gradient = inner.gradient(z, x, output_gradients=tf.constant(normal(*z.shape, seed=3), z.dtype))
        value = tf.reduce_sum(tf.convert_to_tensor(gradient) ** 2)
    return value, outer.gradient(value, x)


def disagreement(model: Function, x: tf.Tensor, safe: bool) -> float:
    """Of the penalty's gradient from central differences, along a random direction, relative."""
    v = normal(*x.shape, seed=4)
    value, gradient = penalty(model, x, safe)
    slope = float(tf.reduce_sum(gradient * v))
    ends = [float(penalty(model, x + sign * 1e-5 * v, safe)[0]) for sign in (1, -1)]
    difference = (ends[0] - ends[1]) / 2e-5
    return abs(difference - slope) / max(abs(difference), abs(slope), 1e-3 * float(value))


def norm_of_difference(array: Any, wanted: Any) -> float:
    array, wanted = np.asarray(array, np.float64), np.asarray(wanted, np.float64)
    return float(np.linalg.norm(array - wanted) / np.linalg.norm(wanted))


OWNERS = (nn_impl, gen_nn_ops, gen_image_ops, gen_math_ops, tf.nn, tf.math, tf, tf.compat.v1.nn)
CLASSES = (polymorphic_function.Function, layers.BatchNormalization, layers.Layer)


def functions() -> dict[tuple[int, str], Any]:
    """Everything that might be replaced."""
    return {
        (index, name): (value, getattr(value, "__code__", None))
        for index, owner in enumerate((*OWNERS, *CLASSES))
        for name, value in vars(owner).items()
        if callable(value)
    }
