"""Misuse is refused with a message that names the remedy."""

import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import gradreg_tensorflow as gradreg
from gradreg_core.errors import DoubleBackwardError, InputError, InputTypeError
from gradreg_core.presets import DataGrad, FrobReg, SpectralNormReg, SpectReg

X = tf.reshape(tf.linspace(-1.0, 1.0, 20), (4, 5))
Y = np.array([0, 1, 2, 1])
WEIGHT = tf.Variable(np.linspace(-1, 1, 15).reshape(5, 3).astype(np.float32))
REG = DataGrad(1.0)


def linear(x: tf.Tensor) -> tf.Tensor:
    return tf.tanh(tf.cast(x, tf.float32) @ WEIGHT)


def through_python(x: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.py_function(tf.tanh, [x @ WEIGHT], tf.float32), (4, 3))


REFUSED: list[tuple[type, str, dict[str, Any]]] = [
    (InputTypeError, r"got .*RaggedTensor of .*Pad it with x.to_tensor\(\)", {"x": tf.RaggedTensor.from_tensor(X)}),
    (InputTypeError, r"SparseTensor of .*Pass tf.sparse.to_dense\(x\)", {"x": tf.sparse.from_dense(X)}),
    (DoubleBackwardError, "py_function has no second derivative", {"model": through_python, "reg": FrobReg(1.0)}),
    (InputTypeError, "the input has dtype int32, and only floating-point inputs", {"x": tf.cast(X, tf.int32)}),
    (InputTypeError, "x must be an array of the tensorflow backend, got numpy.ndarray", {"x": X.numpy()}),
    (InputError, r"with at least one sample, got shape \(\)", {"x": tf.constant(1.0)}),
    (InputError, r"with at least one sample, got shape \(0, 5\)", {"x": X[:0]}),
    (InputError, "step must be at least 0, got -1", {"step": tf.constant(-1)}),
    (InputTypeError, "step must be an integer", {"step": 1.5}),
    (InputError, "sample_ids must be 4 integers", {"sample_ids": tf.zeros(4)}),
    (InputError, r"sample_weight must have shape \(4,\), got \(3,\)", {"sample_weight": tf.ones(3)}),
    (InputError, "sample_weight must be finite and at least 0 everywhere", {"sample_weight": -tf.ones(4)}),
    (InputError, "x does not reach the outputs", {"model": lambda x: linear(tf.stop_gradient(x))}),
    (InputError, "x does not reach the outputs", {"model": lambda x: tf.ones((4, 5)) @ WEIGHT}),
    (InputError, r"expected outputs of shape \(4, ...\)", {"model": lambda x: tf.reduce_mean(linear(x), 0)}),
    (InputTypeError, "must return one array of floating-point outputs, got tuple", {"model": lambda x: (linear(x), 1)}),
    (InputTypeError, "of int64", {"model": lambda x: tf.argmax(linear(x), -1)[:, None]}),
    (InputError, "the outputs of sample 2 are NaN", {"model": lambda x: linear(x) * [[1.0], [1.0], [math.nan], [1.0]]}),
    (InputError, "needs labels, but y is None", {"y": None}),
    (InputError, "labels must lie in 0..2 for 3 outputs, got values from 0 to 3", {"y": tf.range(4)}),
    (InputError, r"expected integer class labels of shape \(4,\)", {"y": Y[:3]}),
    (InputError, "Class labels must be of an integer type", {"y": Y.astype(float)}),
    (InputError, "soft labels must sum to 1", {"y": np.ones((4, 3))}),
    (InputTypeError, "y must be an array of labels, got dict", {"y": {}}),
    (InputTypeError, "got dtype string", {"y": ["a", "b", "c", "d"]}),
    (DoubleBackwardError, "has no derivative in TensorFlow .ResizeArea", {"model": lambda x: area(x)}),
    (
        DoubleBackwardError,
        "has no second derivative in TensorFlow .SoftsignGrad",
        {"model": lambda x: tf.raw_ops.Softsign(features=linear(x)), "reg": SpectralNormReg(1.0)},
    ),
    (InputError, "no tap or layer 'a' was passed in the forward pass", {"reg": DataGrad(1.0, at="a")}),
]


def area(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.image.resize(x[:, :, None, None], (3, 1), "area"), (4, 3))


@pytest.mark.parametrize(
    ("kind", "message", "change"), [pytest.param(*case, id=f"{index}-{case[1]}") for index, case in enumerate(REFUSED)]
)
def test_refused(kind: type, message: str, change: dict[str, Any]) -> None:
    arguments = {"model": linear, "x": X, "y": Y, "reg": REG} | change
    for call in (gradreg.loss, gradreg.penalty):
        with pytest.raises(kind, match=message):
            call(**arguments)


def test_an_unknown_batch_size_is_refused_with_the_remedy() -> None:
    signature = [tf.TensorSpec((None, 5), tf.float32)]
    message = r"shape \(None, 5\) has no static shape.*drop_remainder=True"
    with pytest.raises(InputError, match=message):
        tf.function(lambda x: gradreg.penalty(linear, x, None, SpectReg(1.0)), signature, autograph=False)(X)
    with pytest.raises(InputError, match=message):  # AutoGraph keeps the type
        tf.function(lambda x: gradreg.penalty(linear, x, None, SpectReg(1.0)), signature)(X)


def test_labels_out_of_range_that_cannot_be_read_turn_into_nan() -> None:
    value = tf.function(lambda x, y: gradreg.loss(linear, x, y, REG)[0])(X, tf.range(4))
    assert math.isnan(float(value))


def test_check_of_complex_inputs_casts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    report = gradreg.check(lambda x: linear(tf.math.real(x)), tf.cast(X, tf.complex64), Y, REG)
    assert "the input has dtype complex64" in str(report)
    assert not caplog.records  # TensorFlow logs a cast that drops the imaginary part
