"""Correct forms of operations whose second derivative is wrong or missing in TensorFlow.

Inside :func:`second_order_safe` a few of TensorFlow's functions compute the same values with operations that
differentiate twice, so an unchanged model is right there. Each replacement is a row of `_REPLACEMENTS`:

- `moments` (tf.nn, keras.ops, and so LayerNormalization, GroupNormalization, BatchNormalization in training):
  TensorFlow stops a gradient inside the variance, which is right for the first derivative only.
- max pooling: the second derivative is wrong under XLA where values are close to each other, and missing in float64.
- bilinear, bicubic, nearest and antialiased resizing: TensorFlow's gradient is None (bilinear, silently) or missing.
- softsign: missing.
- tf.nn.softmax_cross_entropy_with_logits: wrong if the labels are differentiated too.
- tf.recompute_grad: missing. gradreg calls the function without it, and stores what it would recompute.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import gen_image_ops, gen_nn_ops, nn_impl

from gradreg_tensorflow.backward_functions import REPLACEMENTS as BACKWARD_FUNCTIONS
from gradreg_tensorflow.replace import Function, Replacement, arguments, replaced

__all__ = ["max_pool", "pool_axis", "second_order_safe"]


# --- moments ---------------------------------------------------------------------------------------------------------
def _moments(original: Function) -> Function:
    def moments(
        x: Any, axes: Any, shift: Any = None, name: str | None = None, keep_dims: Any = None, keepdims: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """tf.nn.moments without its tf.stop_gradient; the values are bit-identical."""
        keep = bool(keep_dims if keepdims is None else keepdims)
        with tf.name_scope(name or "moments"):
            x = tf.convert_to_tensor(x)
            wide = tf.cast(x, tf.float32) if x.dtype == tf.float16 else x
            mean = tf.reduce_mean(wide, axes, keepdims=True)
            variance = tf.reduce_mean(tf.math.squared_difference(wide, mean), axes, keepdims=True)
            if not keep:
                mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
            return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)

    return moments


# --- max pooling -----------------------------------------------------------------------------------------------------
Choice = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def _larger(best: tf.Tensor, candidate: tf.Tensor) -> tf.Tensor:
    """The larger of two, the first if they are equal; NaN if either is NaN."""
    return tf.where((candidate > best) | tf.math.is_nan(candidate), candidate, best)


def pool_axis(
    x: tf.Tensor, axis: int, size: int, stride: int, pads: tuple[int, int] = (0, 0), choose: Choice = _larger
) -> tf.Tensor:
    """Maximum over windows along one axis, by comparing and selecting."""

    def part(start: int, stop: int, step: int = 1) -> tf.Tensor:
        return x[(slice(None),) * axis + (slice(start, stop, step),)]

    if any(pads):
        # Repeating the edge adds no new maximum: neither maximum nor gradient changes.
        length = x.shape[axis]
        x = tf.concat([part(0, 1)] * pads[0] + [x] + [part(length - 1, length)] * pads[1], axis)
    last = (x.shape[axis] - size) // stride * stride
    if size == stride and x.shape[axis:].is_fully_defined() and last + size == x.shape[axis]:
        return _pool_pieces(x, axis, size, choose)
    best = part(0, last + 1, stride)
    for start in range(1, size):
        best = choose(best, part(start, start + last + 1, stride))
    return best


def _pool_pieces(x: tf.Tensor, axis: int, size: int, choose: Choice) -> tf.Tensor:
    """`pool_axis` for adjacent windows: each window is one row, cut into `size` contiguous pieces.

    Slices with a step, and their gradients, take ten times as long.
    """
    after = x.shape[axis + 1 :].as_list()
    best, *others = tf.split(tf.reshape(x, (-1, size * math.prod(after))), size, 1)
    for piece in others:
        best = choose(best, piece)
    shape = tf.concat([tf.shape(x)[:axis], [x.shape[axis] // size, *after]], 0)
    return tf.ensure_shape(tf.reshape(best, shape), [*x.shape[:axis], x.shape[axis] // size, *after])


def _padding(size: int, window: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "SAME"."""
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


def max_pool(original: Function, choose: Choice = _larger) -> Function:
    """Max pooling by comparing and selecting, axis by axis; the values are bit-identical."""

    def pool(*args: Any, **keywords: Any) -> tf.Tensor:
        given = arguments(original, args, keywords)
        x, data_format = tf.convert_to_tensor(given["input"]), given["data_format"]
        sizes, strides = list(map(int, given["ksize"])), list(map(int, given["strides"]))
        pooled = [axis for axis in range(len(sizes)) if sizes[axis] != 1 or strides[axis] != 1]
        spatial = {axis for axis, letter in enumerate(data_format) if letter in "DHW"}
        known = x.shape.rank == len(data_format) == len(sizes) and all(x.shape[axis] for axis in pooled)
        if not known or not x.dtype.is_floating or not set(pooled) <= spatial or data_format == "NCHW_VECT_C":
            return original(*args, **keywords)
        padding, explicit = tf.compat.as_str(given["padding"]), given.get("explicit_paddings", ())
        with tf.name_scope(given["name"] or "max_pool"):
            for axis in reversed(pooled):
                pads = (0, 0)
                if padding == "SAME":
                    pads = _padding(x.shape[axis], sizes[axis], strides[axis])
                elif padding == "EXPLICIT":
                    pads = (int(explicit[2 * axis]), int(explicit[2 * axis + 1]))
                x = pool_axis(x, axis, sizes[axis], strides[axis], pads, choose)
            return x

    return pool


# --- linear operations whose gradient has no gradient ----------------------------------------------------------------
def _linear(forward: Function, adjoint: Function) -> Function:
    """`forward`, a linear function of one tensor, with derivatives of every order from its adjoint."""

    @tf.custom_gradient
    def apply(x: tf.Tensor) -> tuple[tf.Tensor, Function]:
        return forward(x), _linear(adjoint, forward)

    return apply


def _resize(adjoint: Callable[..., tf.Tensor], to_single: bool = True) -> Callable[[Function], Function]:
    """Make the replacement of a resizing operation.

    Args:
        adjoint: its gradient operation, called as adjoint(gradient, images, **options).
        to_single: whether the operation returns float32 for any type. It then computes in float32, but its gradient
            operation accepts fewer types, and XLA's version of it mixes them.
    """

    def make(original: Function) -> Function:
        def resize(*args: Any, **keywords: Any) -> tf.Tensor:
            """`original`, with derivatives of every order."""
            given = arguments(original, args, keywords)
            images, size = tf.convert_to_tensor(given.pop("images")), given.pop("size")
            if not images.dtype.is_floating:
                return original(*args, **keywords)
            given.pop("name")
            images = tf.cast(images, tf.float32) if to_single else images
            constant = tf.stop_gradient(images)
            return _linear(lambda x: original(x, size, **given), lambda g: adjoint(g, constant, **given))(images)

        return resize

    return make


def _nearest_adjoint(g: tf.Tensor, images: tf.Tensor, **options: Any) -> tf.Tensor:
    return gen_image_ops.resize_nearest_neighbor_grad(g, tf.shape(images)[1:3], **options)


# --- the rest --------------------------------------------------------------------------------------------------------
def _softsign(original: Function) -> Function:
    return lambda features, name=None: tf.math.divide(features, 1 + tf.abs(features), name=name)


def _cross_entropy(original: Function) -> Function:
    def cross_entropy(features: Any, labels: Any, name: str | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """The cross-entropies, to a few units in the last place, and their derivatives with respect to the logits."""
        with tf.name_scope(name or "cross_entropy"):
            terms = tf.math.multiply_no_nan(tf.nn.log_softmax(features), labels)
            return -tf.reduce_sum(terms, -1), tf.nn.softmax(features) - labels

    return cross_entropy


_REPLACEMENTS: list[Replacement] = [
    (nn_impl, "moments", _moments),
    (tf.compat.v1.nn, "moments", _moments),
    (gen_nn_ops, "max_pool", max_pool),
    (gen_nn_ops, "max_pool3d", max_pool),
    (gen_image_ops, "resize_bilinear", _resize(gen_image_ops.resize_bilinear_grad)),
    (gen_image_ops, "resize_bicubic", _resize(gen_image_ops.resize_bicubic_grad)),
    (gen_image_ops, "resize_nearest_neighbor", _resize(_nearest_adjoint, to_single=False)),
    (gen_image_ops, "scale_and_translate", _resize(gen_image_ops.scale_and_translate_grad)),
    (gen_nn_ops, "softsign", _softsign),
    (gen_nn_ops, "softmax_cross_entropy_with_logits", _cross_entropy),
    *BACKWARD_FUNCTIONS,
]


def second_order_safe() -> AbstractContextManager[None]:
    """A context in which the operations above differentiate twice, in this thread's traces and runs.

    gradreg enters it around every call. Enter it around your own double backpropagation:

        with tf.GradientTape() as outer:
            with second_order_safe(), tf.GradientTape() as inner:
                inner.watch(x)
                z = model(x)

    Only the forward pass has to be inside; the derivatives may be taken after it ends. It may be nested and entered by
    several threads at once; nothing stays replaced afterwards.
    """
    return replaced("second_order_safe", _REPLACEMENTS)
