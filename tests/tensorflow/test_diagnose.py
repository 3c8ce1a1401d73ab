"""`check` finds operations whose second derivative TensorFlow gets wrong or does not have."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import gradreg_tensorflow as gradreg
from double_backpropagation import Function, normal
from gradreg_core.errors import DoubleBackwardError, InputError
from gradreg_core.presets import DataGrad, SpectReg

X = tf.constant(normal(6, 8, 8, 3), tf.float32)
FLAT = tf.constant(normal(6, 10), tf.float32)
Y = np.arange(6) % 4


def variables(*shapes: tuple[int, ...]) -> list[tf.Variable]:
    return [
        tf.Variable(normal(*shape, seed=index) / np.sqrt(np.prod(shape[:-1])), dtype=tf.float32, name=f"w{index}")
        for index, shape in enumerate(shapes)
    ]


def convolutions(resize: Function, activation: Function) -> Function:
    first, second, last = variables((3, 3, 3, 4), (3, 3, 4, 4), (6 * 6 * 4, 4))

    def model(x: tf.Tensor) -> tf.Tensor:
        h = resize(activation(tf.nn.conv2d(x, first, 1, "SAME")))
        return tf.reshape(activation(tf.nn.conv2d(h, second, 1, "SAME")), (len(x), -1)) @ last

    return model


def raw_bilinear(x: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.ResizeBilinear(images=x, size=[6, 6])


def dense(normalise: Function, scale: float = 1.0) -> Function:
    first, last = variables((10, 16), (16, 4))
    return lambda x: normalise(tf.tanh(scale * (x @ first))) @ last


def stopped(h: tf.Tensor) -> tf.Tensor:
    """Normalisation written by hand in TensorFlow's way."""
    mean = tf.reduce_mean(h, 1, keepdims=True)
    variance = tf.reduce_mean((h - tf.stop_gradient(mean)) ** 2, 1, keepdims=True)
    return (h - mean) / tf.sqrt(variance + 1e-3)


def moments(h: tf.Tensor) -> tf.Tensor:
    mean, variance = tf.nn.moments(h, [1], keepdims=True)
    return (h - mean) / tf.sqrt(variance + 1e-3)


def sequential(*inner: Any, shape: tuple[int, ...] = (8, 8, 3)) -> keras.Model:
    return keras.Sequential([layers.Input(shape), *inner, layers.Flatten(), layers.Dense(4)])


GOOD: dict[str, tuple[Callable[[], Any], tf.Tensor]] = {
    "linear": (lambda: sequential(shape=(10,)), FLAT),
    "rectifiers and pooling": (
        lambda: sequential(
            layers.Conv2D(6, 3, activation="relu"),
            layers.LayerNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(6, 3, activation="leaky_relu"),
            layers.ReLU(6.0),
        ),
        X,
    ),
    "bilinear": (lambda: convolutions(lambda x: tf.image.resize(x, (6, 6)), tf.nn.relu), X),
    "dropout": (
        lambda: (lambda m: lambda x: m(x, training=True))(
            sequential(layers.Dense(16, "relu"), layers.Dropout(0.5), shape=(10,))
        ),
        FLAT,
    ),
    "traced before": (lambda: tf.function(dense(moments)), FLAT),
}


@pytest.mark.slow
@pytest.mark.sample(3)
@pytest.mark.parametrize("name", GOOD)
def test_the_check_passes(name: str) -> None:
    make, x = GOOD[name]
    model = make()
    model(x)
    report = gradreg.check(model, x, Y, DataGrad(1.0) + SpectReg(0.1))
    assert report.ok, report
    assert not report.findings
    report.raise_if_failed()


KEPT = dense(moments)  # a concrete function does not keep its variables alive
RECOMPUTED = dense(tf.recompute_grad(tf.sin))
BAD: dict[str, tuple[Callable[[], Any], tf.Tensor, str]] = {
    "bilinear": (
        lambda: convolutions(raw_bilinear, tf.tanh),
        X,
        r"depends on w1:0, w2:0, but its gradient there is None or 0",
    ),
    "bilinear and rectifiers": (lambda: convolutions(raw_bilinear, tf.nn.relu), X, "its gradient there is None"),
    "moments by hand": (
        lambda: dense(stopped),
        FLAT,
        "most for w0:0: some operation of the model has a wrong second derivative",
    ),
    "a concrete function": (
        lambda: tf.function(KEPT).get_concrete_function(tf.TensorSpec((6, 10))),
        FLAT,
        "has a wrong second derivative",
    ),
    "no second derivative": (
        lambda: dense(lambda h: tf.raw_ops.Softsign(features=h)),
        FLAT,
        "no second derivative in TensorFlow .SoftsignGrad",
    ),
    "recompute_grad": (
        lambda: tf.function(RECOMPUTED).get_concrete_function(tf.TensorSpec((6, 10))),
        FLAT,
        "tf.recompute_grad has no second derivative",
    ),
    "not a number": (
        lambda: (lambda model: lambda x: tf.sqrt(tf.nn.relu(model(x)) * [[0.0], *[[1.0]] * 5]))(dense(tf.sin)),
        FLAT,
        "gradient is NaN or infinite",
    ),
    "no variable": (
        lambda: (lambda w: lambda x: tf.tanh(x @ tf.stop_gradient(w)))(variables((10, 4))[0]),
        FLAT,
        "gradient is None or 0 for every parameter",
    ),
}


@pytest.mark.sample(4)
@pytest.mark.parametrize("name", BAD)
def test_the_check_finds(name: str) -> None:
    make, x, message = BAD[name]
    report = gradreg.check(make(), x, Y, SpectReg(0.1))
    assert not report.ok
    assert any(finding.level == "error" for finding in report.findings)
    with pytest.raises((DoubleBackwardError, InputError), match=message):
        report.raise_if_failed()


def test_the_check_changes_nothing() -> None:
    model = sequential(layers.Dense(8, "relu"), layers.BatchNormalization(), layers.Dropout(0.5), shape=(10,))
    tf.random.set_seed(5)
    variables = [*model.weights, *model.non_trainable_variables]
    before = [variable.numpy() for variable in variables]
    report = gradreg.check(lambda x: model(x, training=True), FLAT, Y, SpectReg(0.1))
    assert [finding.level for finding in report.findings] == ["warning"], report
    assert "is in training mode and couples the samples" in report.findings[0].problem
    drawn = tf.random.normal((3,))
    tf.random.set_seed(5)
    np.testing.assert_array_equal(drawn, tf.random.normal((3,)))
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_the_check_wants_eager_mode() -> None:
    with pytest.raises(InputError, match=r"Call it in eager mode, outside tf\.function"):
        tf.function(lambda x: gradreg.check(dense(tf.sin), x, Y, SpectReg(0.1)), autograph=False)(FLAT)
