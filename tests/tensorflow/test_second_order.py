"""Operations whose second derivative is wrong or missing in TensorFlow are right inside gradreg.

Each test of a raw operation shows that TensorFlow is still wrong there; when one fails, TensorFlow has changed.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from double_backpropagation import (
    DOUBLE,
    IMAGES,
    RIGHT,
    SEQUENCES,
    SINGLE,
    VECTORS,
    VOLUMES,
    WRONG,
    Function,
    disagreement,
    norm_of_difference,
    normal,
    penalty,
    surrounded,
)
from gradreg_tensorflow.second_order import second_order_safe


def training(layer: Any) -> Function:
    return lambda x: layer(x, training=True)


WRONG_IN_TENSORFLOW: dict[str, tuple[Callable[[], Any], tf.Tensor]] = {
    "LayerNormalization": (lambda: layers.LayerNormalization(**DOUBLE), VECTORS),
    "LayerNormalization of images": (lambda: layers.LayerNormalization(**DOUBLE), IMAGES),
    "GroupNormalization": (lambda: layers.GroupNormalization(2, **DOUBLE), VECTORS),
    "GroupNormalization of images": (lambda: layers.GroupNormalization(3, **DOUBLE), IMAGES),
    "BatchNormalization": (lambda: training(layers.BatchNormalization(**DOUBLE)), VECTORS),
    "BatchNormalization of images": (lambda: training(layers.BatchNormalization(**DOUBLE)), IMAGES),
    "keras.ops.moments": (lambda: lambda x: sum(keras.ops.moments(x, [1])), VECTORS),
    "tf.nn.moments": (lambda: lambda x: sum(tf.nn.moments(x, [1])), VECTORS),
    "tf.compat.v1.nn.moments": (lambda: lambda x: sum(tf.compat.v1.nn.moments(x, [1])), VECTORS),
    "vectorized": (lambda: lambda x: tf.vectorized_map(lambda r: tf.nn.moments(r, [0])[1], x), VECTORS),
    "cross-entropy of soft labels": (
        lambda: lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(x[:, ::-1]), x),
        VECTORS,
    ),
}
RIGHT_IN_TENSORFLOW: dict[str, tuple[Callable[[], Any], tf.Tensor]] = {
    "Dense": (lambda: layers.Dense(4, "gelu", **DOUBLE), VECTORS),
    "RMSNormalization": (lambda: layers.RMSNormalization(**DOUBLE), VECTORS),
    "softsign": (lambda: keras.activations.softsign, VECTORS),
    "Conv2D": (lambda: layers.Conv2D(3, 3, activation="elu", **DOUBLE), IMAGES),
    "MaxPooling2D": (lambda: layers.MaxPooling2D(**DOUBLE), IMAGES),
    "MaxPooling2D overlapping": (lambda: layers.MaxPooling2D(3, 2, "same", **DOUBLE), IMAGES),
    "MaxPooling1D": (lambda: layers.MaxPooling1D(2, **DOUBLE), SEQUENCES),
    "MaxPooling3D": (lambda: layers.MaxPooling3D(2, **DOUBLE), VOLUMES),
    "dilated pooling": (lambda: lambda x: tf.nn.pool(x, (2, 2), "MAX", dilations=(2, 2)), IMAGES),
    "LSTM": (lambda: layers.LSTM(3, **DOUBLE), SEQUENCES),
    "MultiHeadAttention": (
        lambda: (lambda layer: lambda x: layer(x, x))(layers.MultiHeadAttention(2, 3, **DOUBLE)),
        SEQUENCES,
    ),
}


@pytest.mark.parametrize("name", WRONG_IN_TENSORFLOW)
def test_wrong_in_tensorflow_and_right_in_gradreg(name: str) -> None:
    make, x = WRONG_IN_TENSORFLOW[name]
    model = surrounded(make(), x)
    assert disagreement(model, x, safe=True) < RIGHT
    assert disagreement(model, x, safe=False) > WRONG


if not hasattr(layers, "RMSNormalization"):  # before Keras 3.9
    del RIGHT_IN_TENSORFLOW["RMSNormalization"]


@pytest.mark.parametrize("name", RIGHT_IN_TENSORFLOW)
def test_right_in_gradreg(name: str) -> None:
    make, x = RIGHT_IN_TENSORFLOW[name]
    assert disagreement(surrounded(make(), x), x, safe=True) < RIGHT


@pytest.mark.parametrize("name", ["LayerNormalization", "MaxPooling2D overlapping", "tf.nn.moments"])
def test_compiled_gives_the_same(name: str) -> None:
    make, x = (WRONG_IN_TENSORFLOW | RIGHT_IN_TENSORFLOW)[name]
    model = surrounded(make(), x)
    value, gradient = penalty(model, x, safe=True)
    compiled = tf.function(lambda x: penalty(model, x, safe=True), jit_compile=True, autograph=False)(x)
    assert norm_of_difference(compiled[1], gradient) < 1e-12  # roundoff of a few thousand operations
    assert float(compiled[0]) == pytest.approx(float(value), rel=1e-12)


def test_max_pooling_of_close_values_under_xla() -> None:
    x = tf.constant(1 + 1e-3 * normal(2, 8, 8, 3), tf.float32)
    model: Function = lambda x: tf.sin(3 * tf.nn.max_pool(x, 2, 2, "VALID"))  # noqa: E731
    raw = tf.function(lambda x: penalty(model, x, safe=False)[1], jit_compile=True, autograph=False)(x)
    safe = tf.function(lambda x: penalty(model, x, safe=True)[1], jit_compile=True, autograph=False)(x)
    wanted = penalty(model, tf.cast(x, tf.float64), safe=True)[1]
    assert norm_of_difference(safe, wanted) < SINGLE
    assert norm_of_difference(raw, wanted) > 1e-3


RESIZES: dict[str, Function] = {
    "bilinear": lambda x: tf.image.resize(x, (4, 7)),
    "bilinear, aligned": lambda x: tf.compat.v1.image.resize_bilinear(x, (4, 7), align_corners=True),
    "UpSampling2D": layers.UpSampling2D(interpolation="bilinear"),
    "Resizing": layers.Resizing(4, 7),
    "bicubic": lambda x: tf.image.resize(x, (4, 7), "bicubic"),
    "nearest": lambda x: tf.image.resize(x, (4, 7), "nearest"),
    "antialiased": lambda x: tf.image.resize(x, (3, 4), antialias=True),
    "lanczos": lambda x: tf.image.resize(x, (4, 7), "lanczos3"),
}


def resized(name: str) -> tuple[Function, Function, tf.Tensor]:
    """A model with the resizing, the same in float64 with the resizing as a matrix, and x in float32."""
    resize, shape = RESIZES[name], (5, 5, 3)
    basis = np.eye(75, dtype=np.float32).reshape(75, *shape)
    matrix = tf.constant(np.reshape(resize(tf.constant(basis)), (75, -1)).astype(np.float64))
    around: Callable[[Function], Function] = lambda inner: lambda x: tf.sin(inner(tf.tanh(x)))  # noqa: E731
    native = around(lambda x: tf.reshape(resize(x), (2, -1)))
    return native, around(lambda x: tf.reshape(x, (2, -1)) @ matrix), tf.constant(normal(2, *shape), tf.float32)


@pytest.mark.parametrize("name", RESIZES)
def test_resizing(name: str) -> None:
    native, exact, x = resized(name)
    wanted = penalty(exact, tf.cast(x, tf.float64), safe=False)[1]
    assert norm_of_difference(penalty(native, x, safe=True)[1], wanted) < SINGLE
    if "bilinear" in name or name in ("UpSampling2D", "Resizing"):
        assert norm_of_difference(penalty(native, x, safe=False)[1], wanted) > 0.1  # silently incomplete
    else:
        with pytest.raises(LookupError, match=r"no entry for: (Resize|Scale)"):
            penalty(native, x, safe=False)


@pytest.mark.parametrize("compiled", [False, True])
def test_traced_bilinear_resizing(compiled: bool) -> None:
    native, exact, x = resized("bilinear")
    gradient = tf.function(lambda x: penalty(native, x, safe=True)[1], jit_compile=compiled, autograph=False)(x)
    assert norm_of_difference(gradient, penalty(exact, tf.cast(x, tf.float64), safe=False)[1]) < SINGLE


# --- other precisions ------------------------------------------------------------------------------------------------
OTHERS: dict[str, Function] = {
    **{
        name: RESIZES[name]
        for name in ("bilinear", "bilinear, aligned", "bicubic", "nearest", "antialiased", "lanczos")
    },
    "moments": lambda x: tf.concat(tf.nn.moments(x, [1, 2]), -1),
    "max pooling": lambda x: tf.nn.max_pool(x, 3, 2, "SAME"),
    "softsign": tf.nn.softsign,
    "cross-entropy": lambda x: tf.nn.softmax_cross_entropy_with_logits(tf.nn.softmax(x[..., ::-1]), x),
}
COMPILED = ("bilinear", "bilinear, aligned", "moments")
"""Also tried under XLA, which cannot compile the gradients of bicubic, nearest and antialiased resizing at all."""
ROUNDING = {tf.float16: 2.0**-11, tf.bfloat16: 2.0**-8, tf.float64: 2.0**-24}
"""Of one operation; resizing computes in float32 whatever it gets."""


@pytest.mark.sample(12)
@pytest.mark.parametrize("dtype", ROUNDING, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", OTHERS)
def test_other_precisions(name: str, dtype: Any) -> None:
    operation, x = OTHERS[name], tf.constant(normal(2, 5, 5, 3), dtype)
    with second_order_safe():
        inside = operation(x)
    outside = operation(x)
    assert inside.dtype == outside.dtype
    np.testing.assert_allclose(tf.cast(inside, tf.float64), tf.cast(outside, tf.float64), rtol=4 * ROUNDING[dtype])
    model: Function = lambda x: tf.cast(tf.sin(operation(tf.tanh(x))), tf.float32)  # noqa: E731
    wanted = penalty(model, tf.cast(x, tf.float32), safe=True)[1]
    for eager in [True, False] if name in COMPILED else [True]:
        gradient: Function = lambda x: penalty(model, x, safe=True)[1]  # noqa: E731
        call = gradient if eager else tf.function(gradient, jit_compile=True, autograph=False)
        # A few tens of roundings in each direction of the network.
        assert norm_of_difference(tf.cast(call(x), tf.float32), wanted) < 16 * ROUNDING[dtype]


# --- the values stay -------------------------------------------------------------------------------------------------
SAME_BITS: dict[str, Function] = {
    "moments": lambda x: tf.concat(tf.nn.moments(x, [1, 2]), 0),
    "moments, kept": lambda x: tf.nn.moments(x, [1, 2], keepdims=True)[1],
    "half moments": lambda x: tf.nn.moments(tf.cast(x, tf.float16), [1, 2])[1],
    "bfloat16 moments": lambda x: tf.nn.moments(tf.cast(x, tf.bfloat16), [1, 2])[1],
    "max pool": lambda x: tf.nn.max_pool(x, 2, 2, "VALID"),
    "max pool, same": lambda x: tf.nn.max_pool(x, (3, 2), (2, 1), "SAME"),
    "max pool, explicit": lambda x: tf.nn.max_pool(x, 3, 2, [[0, 0], [1, 2], [2, 0], [0, 0]]),
    "max pool, 1-D": lambda x: tf.nn.max_pool1d(x[:, 0], 3, 2, "SAME"),
    "max pool, 3-D": lambda x: tf.nn.max_pool3d(x[..., None], 2, 1, "SAME"),
    "max pool over channels": lambda x: tf.nn.max_pool(x, (1, 1, 1, 3), (1, 1, 1, 3), "VALID"),
    "max pool of integers": lambda x: tf.nn.max_pool(tf.cast(10 * x, tf.int32), 2, 2, "VALID"),
    "bilinear": lambda x: tf.image.resize(x, (4, 5)),
    "bilinear of integers": lambda x: tf.image.resize(tf.cast(10 * x, tf.uint8), (4, 5)),
    "nearest": lambda x: tf.image.resize(x, (4, 5), "nearest"),
    "bicubic": lambda x: tf.image.resize(x, (4, 5), "bicubic"),
    "lanczos": lambda x: tf.image.resize(x, (4, 5), "lanczos5", antialias=True),
}


@pytest.mark.parametrize("name", SAME_BITS)
def test_values_are_the_same_bits(name: str) -> None:
    function, x = SAME_BITS[name], tf.constant(normal(2, 7, 9, 3), tf.float32)
    outside = function(x)
    with second_order_safe():
        inside = function(x)
    assert inside.dtype == outside.dtype
    assert inside.numpy().tobytes() == outside.numpy().tobytes()


@pytest.mark.parametrize("dtype", [tf.float32, tf.float64])
def test_values_of_softsign_and_cross_entropy(dtype: Any) -> None:
    z, y = tf.constant(normal(50, 10), dtype) * 5, tf.nn.softmax(tf.constant(normal(50, 10, seed=1), dtype))
    y = tf.concat([y[:25], tf.one_hot(tf.range(25) % 10, 10, dtype=dtype)], 0)
    functions = [lambda: tf.nn.softsign(z), lambda: tf.nn.softmax_cross_entropy_with_logits(y, z)]
    for function in functions:
        outside = function()
        with second_order_safe():
            inside = function()
        # A few units in the last place: sums of ten terms in another order.
        np.testing.assert_allclose(inside, outside, rtol=8 * np.finfo(dtype.as_numpy_dtype).eps)


def test_equal_values_in_a_window_give_the_gradient_to_the_first() -> None:
    x = tf.zeros((1, 4, 4, 1))
    for padding in ("VALID", "SAME"):
        for size, stride in ((2, 2), (3, 1), (3, 2)):

            def gradient(size: int = size, stride: int = stride, padding: str = padding) -> np.ndarray:
                with tf.GradientTape() as tape:
                    tape.watch(x)
                    z = tf.nn.max_pool(x, size, stride, padding)
                return tape.gradient(z, x).numpy()

            outside = gradient()
            with second_order_safe():
                inside = gradient()
            np.testing.assert_array_equal(inside, outside)


def test_nan_is_not_lost_in_a_window() -> None:
    for position in range(4):
        x = np.zeros((1, 2, 2, 1), np.float32)
        x.reshape(-1)[position] = np.nan
        with second_order_safe():
            assert np.isnan(tf.nn.max_pool(x, 2, 2, "VALID").numpy()).all()
