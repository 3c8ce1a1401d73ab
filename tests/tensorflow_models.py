"""Portable networks of the reference as TensorFlow functions, and the ways to run them."""

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf

import gradreg_numpy
from gradreg_tensorflow.networks import apply

MODES: dict[str, Callable[..., Any]] = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": functools.partial(tf.function, jit_compile=True),
}


def tensors(model: gradreg_numpy.Model, dtype: Any = tf.float64) -> dict[str, tf.Tensor]:
    """The model's weights and statistics by path."""
    return {path: tf.constant(value, dtype) for path, value in model.params.items()}


def native(model: gradreg_numpy.Model) -> Callable[[tf.Tensor], tf.Tensor]:
    """The model as a function of float64 tensors."""
    params = tensors(model)
    return lambda x: apply(model.network, params, x)


def schedule(step: Any) -> Any:
    """As in `cases`, with the conversion that TensorFlow does not do by itself."""
    return 0.125 * ((tf.cast(step, tf.float64) if tf.is_tensor(step) else step) + 1)
