"""The parts of a Keras model besides its function: its variables, batch normalisation, named layers."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradreg_tensorflow as gradreg
from gradreg_core.errors import BatchNormError, BatchNormWarning, InputError
from gradreg_core.presets import DataGrad, FrobReg, SpectReg, WeightDecay
from tensorflow_models import MODES

X = tf.reshape(tf.linspace(-1.0, 1.0, 20), (4, 5))
Y = np.array([0, 1, 2, 1])
REG = DataGrad(1.0)


def test_weight_decay_finds_the_parameters() -> None:
    layer = keras.layers.Dense(3)
    layer.build((None, 5))

    class Module(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.scale = layer, tf.Variable(tf.fill((1, 3), 2.0))

        def __call__(self, x: tf.Tensor) -> tf.Tensor:
            return self.layer(x) * self.scale

    x, y = tf.ones((2, 5)), [0, 1]
    kernel = 0.5 * float(tf.reduce_sum(layer.kernel**2))
    module = Module()
    for model, wanted in (
        (layer, kernel),
        (functools.partial(layer), kernel),
        (layer.call, kernel),
        (module, kernel + 6),
        (module.__call__, kernel + 6),
    ):
        assert float(gradreg.penalty(model, x, y, WeightDecay(1.0))) == pytest.approx(wanted, rel=1e-6)  # float32
    with pytest.raises(InputError, match="cannot see the parameters of a function; pass params="):
        gradreg.penalty(lambda x: layer(x), x, y, WeightDecay(1.0))
    with pytest.raises(InputError, match="Dense has no weights yet"):
        gradreg.penalty(keras.layers.Dense(3), x, y, WeightDecay(1.0))
    given = gradreg.penalty(lambda x: layer(x), x, y, WeightDecay(1.0), params={"k": [layer.kernel], "b": layer.bias})
    assert float(given) == pytest.approx(kernel, rel=1e-6)  # float32


def test_weight_decay_alone_of_half_precision() -> None:
    weight, x = tf.fill((2, 2), tf.cast(300.0, tf.float16)), tf.zeros((3, 2), tf.float16)
    value = gradreg.penalty(lambda x: x @ weight, x, None, WeightDecay(1.0), params=[weight])
    assert (value.dtype, float(value)) == (tf.float32, 180_000.0)  # which float16 cannot hold
    later = gradreg.penalty(lambda x: x @ weight, x, None, SpectReg(1.0, every=2), step=1)
    assert (later.dtype, float(later)) == (tf.float32, 0.0)


# --- batch normalisation ---------------------------------------------------------------------------------------------
@functools.cache
def normalised() -> keras.Model:
    layers = [keras.layers.Input((5,)), keras.layers.Dense(4), keras.layers.BatchNormalization(name="norm")]
    return keras.Sequential([*layers, keras.layers.Dense(3)])


WAYS: dict[str, Callable[[], Any]] = {
    "lambda": lambda: lambda x: normalised()(x, training=True),
    "partial": lambda: functools.partial(normalised(), training=True),
    "tf.function": lambda: tf.function(lambda x: normalised()(x, training=True)),
}


@pytest.mark.parametrize("way", WAYS)
def test_batch_normalisation_in_training_mode_is_seen(way: str) -> None:
    model = WAYS[way]()
    gradreg.penalty(model, X, Y, REG, batch_norm="allow")
    for _ in range(2):
        with pytest.raises(BatchNormError, match=r"penalty: norm \(BatchNormalization\) is in training mode"):
            gradreg.penalty(model, X, Y, REG, batch_norm="error")
    with pytest.warns(BatchNormWarning, match="norm .* couples the samples of a batch") as warned:
        gradreg.penalty(model, X, Y, REG)
    assert [warning.filename for warning in warned] == [__file__]


def test_batch_normalisation_in_inference_mode_is_no_matter() -> None:
    gradreg.penalty(normalised(), X, Y, REG, batch_norm="error")
    gradreg.penalty(lambda x: normalised()(x, training=False), X, Y, REG, batch_norm="error")
    with pytest.raises(InputError, match="batch_norm must be one of"):
        gradreg.penalty(normalised(), X, Y, REG, batch_norm="ignore")


# --- named activations -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", MODES)
def test_penalties_at_a_named_layer(mode: str) -> None:
    model = normalised()
    dense = model.layers[0]
    head = lambda h: model.layers[2](model.layers[1](h))  # noqa: E731
    reg = DataGrad(1.0, at=dense.name) + SpectReg(1.0)
    value = MODES[mode](lambda x: gradreg.penalty(model, x, Y, reg))(X)
    wanted = gradreg.penalty(head, dense(X), Y, DataGrad(1.0)) + gradreg.penalty(model, X, Y, SpectReg(1.0))
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)  # float32
    with pytest.raises(InputError, match=r"no tap or layer 'norms' was passed .* Passed were: 'dense.*norm"):
        gradreg.penalty(model, X, Y, DataGrad(1.0, at="norms"))
    with pytest.raises(InputError, match=r"the place '\w+' is passed more than once"):
        gradreg.penalty(lambda x: model(x) + model(x), X, Y, DataGrad(1.0, at=dense.name))


def test_token_models_are_penalised_at_their_embedding() -> None:
    layers = [keras.layers.Input((3,), dtype="int32"), keras.layers.Embedding(7, 2, name="embedding")]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(3)])
    tokens = tf.constant([[1, 2, 3], [4, 5, 6]])
    kernel = model.layers[-1].kernel.numpy()
    value = gradreg.penalty(model, tokens, None, FrobReg(1.0, at="embedding"))
    assert float(value) == pytest.approx(float((kernel**2).sum()), rel=1e-5)  # float32
