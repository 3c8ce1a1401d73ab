"""Smooth stand-ins for piecewise linear functions, for the check alone.

A penalty on the gradient jumps where a rectifier switches, so finite differences over many rectifiers do not converge
to its derivative, however right that is. With the switches rounded off they do, and whatever else the model consists of
is tested as it stands.
"""

from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import gen_math_ops, gen_nn_ops

from gradreg_tensorflow.replace import Function, Replacement, replaced
from gradreg_tensorflow.second_order import max_pool, max_pool3d

__all__ = ["smoothed"]

_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805


def _ramp(x: tf.Tensor) -> tf.Tensor:
    """max(x, 0), rounded off over the scale of x itself."""
    wide = tf.cast(x, tf.float32) if x.dtype in (tf.float16, tf.bfloat16) else x
    square = wide * wide
    return tf.cast(0.5 * (wide + tf.sqrt(square + tf.reduce_mean(square) + 1e-30)), x.dtype)


def _floating(original: Function, smooth: Function) -> Function:
    def either(x: Any, *args: Any, **keywords: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        return smooth(x, *args, **keywords) if x.dtype.is_floating else original(x, *args, **keywords)

    return either


def _relu(original: Function) -> Function:
    return _floating(original, lambda features, name=None: _ramp(features))


def _relu6(original: Function) -> Function:
    return _floating(original, lambda features, name=None: _ramp(features) - _ramp(features - 6))


def _leaky_relu(original: Function) -> Function:
    return _floating(original, lambda features, alpha=0.2, name=None: alpha * features + (1 - alpha) * _ramp(features))


def _elu(original: Function) -> Function:
    return _floating(original, lambda features, name=None: _ramp(features) + tf.math.expm1(-_ramp(-features)))


def _selu(original: Function) -> Function:
    def selu(features: tf.Tensor, name: str | None = None) -> tf.Tensor:
        return _SELU_SCALE * (_ramp(features) + _SELU_ALPHA * tf.math.expm1(-_ramp(-features)))

    return _floating(original, selu)


def _abs(original: Function) -> Function:
    return _floating(original, lambda x, name=None: 2 * _ramp(x) - x)


def _maximum(original: Function) -> Function:
    def maximum(x: Any, y: Any, name: str | None = None) -> tf.Tensor:
        if not (tf.is_tensor(x) or tf.is_tensor(y)):
            return original(x, y, name)
        dtype = x.dtype if tf.is_tensor(x) else y.dtype
        x, y = tf.convert_to_tensor(x, dtype), tf.convert_to_tensor(y, dtype)
        return y + _ramp(x - y) if dtype.is_floating else original(x, y, name)

    return maximum


def _minimum(original: Function) -> Function:
    maximum = _maximum(lambda x, y, name: -original(-x, -y, name))
    return lambda x, y, name=None: -maximum(-x, -y, name)


def _choose(best: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
    return best + _ramp(candidate - best)


_replacements: list[Replacement] = [
    (gen_nn_ops, "relu", _relu),
    (gen_nn_ops, "relu6", _relu6),
    (gen_nn_ops, "leaky_relu", _leaky_relu),
    (gen_nn_ops, "elu", _elu),
    (gen_nn_ops, "selu", _selu),
    (gen_math_ops, "_abs", _abs),
    (tf, "maximum", _maximum),
    (tf.math, "maximum", _maximum),
    (tf, "minimum", _minimum),
    (tf.math, "minimum", _minimum),
    (gen_nn_ops, "max_pool", lambda original: max_pool(original, _choose)),
    (gen_nn_ops, "max_pool3d", lambda original: max_pool3d(original, _choose)),
]


def smoothed() -> AbstractContextManager[None]:
    """A context in which rectifiers, maxima and absolute values are smooth, for what this thread runs inside."""
    return replaced("smoothed", _replacements)
