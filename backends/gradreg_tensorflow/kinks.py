"""Smooth stand-ins for piecewise linear functions, used by `check` alone.

A penalty on the gradient jumps where a rectifier switches, so finite differences over many rectifiers do not converge
to its derivative, even if it is correct. With the switches rounded off they do. The rest of the model stays as it is.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops, gen_nn_ops

from gradreg_tensorflow.replace import Function, Replacement, arguments, replaced
from gradreg_tensorflow.second_order import max_pool

__all__ = ["smoothed"]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _ramp(x: tf.Tensor) -> tf.Tensor:
    """max(x, 0), rounded off over the scale of x itself."""
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    square = wide * wide
    return tf.cast(0.5 * (wide + tf.sqrt(square + tf.reduce_mean(square) + 1e-30)), x.dtype)


def _rectifier(smooth: Callable[..., tf.Tensor]) -> Callable[[Function], Function]:
    """Make a replacement that calls `smooth(tensor, **options)` for one floating-point tensor."""

    def make(original: Function) -> Function:
        def rectifier(*args: Any, **keywords: Any) -> tf.Tensor:
            given = arguments(original, args, keywords)
            x = tf.convert_to_tensor(next(iter(given.values())))
            options = {name: value for name, value in given.items() if name == "alpha"}
            return smooth(x, **options) if x.dtype.is_floating else original(*args, **keywords)

        return rectifier

    return make


def _leaky_relu(x: tf.Tensor, alpha: Any) -> tf.Tensor:
    return alpha * x + (1 - alpha) * _ramp(x)


def _selu(x: tf.Tensor) -> tf.Tensor:
    return _SELU_SCALE * (_ramp(x) + _SELU_ALPHA * tf.math.expm1(-_ramp(-x)))


def _larger(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    """The larger of two, rounded off over the spread of their difference: a distant bound changes nothing."""
    apart = x - y
    wide = tf.cast(apart, tf.float32) if apart.dtype in (tf.float16, tf.bfloat16) else apart
    spread = tf.reduce_mean((wide - tf.reduce_mean(wide)) ** 2) + 1e-30
    excess = 0.5 * spread / (tf.sqrt(wide * wide + spread) + wide * tf.sign(wide))
    return tf.where(apart > 0, x, y) + tf.cast(excess, apart.dtype)


def _extreme(sign: int, original: Function) -> Function:
    """The maximum of two tensors for sign 1, their minimum for sign -1."""

    def extreme(x: Any, y: Any, name: str | None = None) -> tf.Tensor:
        dtype = next((value.dtype for value in (x, y) if tf.is_tensor(value)), None)
        if dtype is None or not dtype.is_floating:
            return original(x, y, name)
        x, y = tf.convert_to_tensor(x, dtype), tf.convert_to_tensor(y, dtype)
        return sign * _larger(sign * x, sign * y)

    return extreme


def _choose(best: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
    return _larger(candidate, best)


_REPLACEMENTS: list[Replacement] = [
    (gen_nn_ops, "relu", _rectifier(_ramp)),
    (gen_nn_ops, "relu6", _rectifier(lambda x: _ramp(x) - _ramp(x - 6))),
    (gen_nn_ops, "leaky_relu", _rectifier(_leaky_relu)),
    (gen_nn_ops, "elu", _rectifier(lambda x: _ramp(x) + tf.math.expm1(-_ramp(-x)))),
    (gen_nn_ops, "selu", _rectifier(_selu)),
    (gen_math_ops, "_abs", _rectifier(lambda x: 2 * _ramp(x) - x)),
    *((module, "maximum", partial(_extreme, 1)) for module in (tf, tf.math)),
    *((module, "minimum", partial(_extreme, -1)) for module in (tf, tf.math)),
    *((gen_nn_ops, name, partial(max_pool, choose=_choose)) for name in ("max_pool", "max_pool3d")),
]


def smoothed() -> AbstractContextManager[None]:
    """A context in which rectifiers, maxima and absolute values are smooth in this thread."""
    return replaced("smoothed", _REPLACEMENTS)
