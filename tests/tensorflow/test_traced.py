"""Functions that TensorFlow traced before gradreg was called: saved and exported models, concrete functions."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf
from keras import layers

import gradreg_tensorflow as gradreg
from double_backpropagation import norm_of_difference
from gradreg_core.errors import DoubleBackwardError, InputTypeError
from gradreg_tensorflow.second_order import second_order_safe

X, Y = tf.reshape(tf.linspace(-1.0, 1.0, 24), (4, 6)), tf.constant([0, 1, 2, 0])
REG = gradreg.FrobReg(1.0)
CALLS: list[Callable[[Any], Any]] = [
    lambda model: gradreg.penalty(model, X, None, REG),
    lambda model: gradreg.loss(model, X, Y, gradreg.DataGrad(1.0) + gradreg.SpectReg(1.0, fraction=0.5), step=0),
    lambda model: gradreg.penalty(model, X, None, gradreg.SpectReg(1.0, side="input")),
    lambda model: tf.function(lambda x: gradreg.penalty(model, x, None, REG))(X),
]


def make(*between: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((6,)), layers.Dense(5, "tanh"), *between, layers.Dense(3)])


def concrete(model: Any) -> Any:
    return tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 6)))


def exported(model: keras.Model, folder: Path) -> Any:
    model.export(folder / "exported", verbose=False)
    return tf.saved_model.load(folder / "exported")


def test_a_second_derivative_that_was_traced_wrong_is_refused(tmp_path: Path) -> None:
    model = make(layers.LayerNormalization())
    loaded = exported(model, tmp_path)
    traced = [concrete(model), loaded.serve, layers.TFSMLayer(tmp_path / "exported", call_endpoint="serve")]
    traced.append(lambda x: traced[0](x) + 1)
    for function in traced:
        with pytest.raises(DoubleBackwardError, match=r"LayerNormalization.*save a Keras model as a \.keras file"):
            gradreg.penalty(function, X, None, REG)
    for call in CALLS:
        with pytest.raises(DoubleBackwardError, match="traced before"):
            call(traced[0])
    assert "traced before" in str(gradreg.check(traced[0], X, Y, REG))
    gradreg.measure(traced[0], X, Y)  # no second derivative is asked for
    gradreg.penalty(traced[0], X, None, gradreg.SpectReg(1.0, side="input", method="difference"))


def test_bilinear_resizing_that_was_traced_is_refused(tmp_path: Path) -> None:
    resize = [layers.Reshape((5, 1, 1)), layers.UpSampling2D((2, 1), interpolation="bilinear"), layers.Flatten()]
    model = make(*resize)
    loaded = exported(model, tmp_path)
    for function in (concrete(model), loaded.serve, lambda x: loaded.serve(x) + 1):
        with pytest.raises(DoubleBackwardError, match=r"traced before, with bilinear resizing"):
            gradreg.penalty(function, X, None, REG)
    with second_order_safe():  # what is put in place there is lost when it is saved, so the message does not name it
        traced = concrete(model)
    with pytest.raises(DoubleBackwardError) as refused:
        gradreg.penalty(traced, X, None, REG)
    assert "second_order_safe" not in str(refused.value)
    # The remedies: the model that it was traced from, and a difference.
    gradreg.penalty(model, X, None, REG)
    gradreg.penalty(traced, X, None, gradreg.SpectReg(1.0, side="input", method="difference"))


def test_the_remedies_work(tmp_path: Path) -> None:
    model = make(layers.LayerNormalization())
    wanted = gradreg.penalty(model, X, None, REG)
    model.save(tmp_path / "model.keras")
    read = keras.saving.load_model(tmp_path / "model.keras")
    for same in (read, tf.function(lambda x: model(x))):
        tf.debugging.assert_near(gradreg.penalty(same, X, None, REG), wanted, rtol=1e-6)  # float32


def test_other_traced_functions_are_right(tmp_path: Path) -> None:
    model = make()
    loaded = exported(model, tmp_path)
    with tf.GradientTape() as tape:
        wanted = gradreg.penalty(model, X, None, REG)
    ours = tape.gradient(wanted, model.trainable_variables[0])
    for function, kernel in ((concrete(model), model.trainable_variables[0]), (loaded.serve, loaded.variables[0])):
        with tf.GradientTape() as tape:
            value = gradreg.penalty(function, X, None, REG)
        assert norm_of_difference(tape.gradient(value, kernel), ours) < 1e-6  # float32
    tf.saved_model.save(model, tmp_path / "saved")
    saved = tf.saved_model.load(tmp_path / "saved")
    with pytest.raises(InputTypeError, match=r"model\.signatures\['serving_default'\]"):
        gradreg.penalty(saved, X, None, REG)
    signature = saved.signatures["serving_default"]
    tf.debugging.assert_near(gradreg.penalty(signature, X, None, REG, outputs="output_0"), wanted, rtol=1e-6)


def test_ragged_outputs() -> None:
    model = make()

    def ragged(x: tf.Tensor) -> Any:
        return tf.RaggedTensor.from_tensor(model(x))

    with pytest.raises(InputTypeError, match=r"RaggedTensor\. Pad it with x\.to_tensor"):
        gradreg.penalty(ragged, X, None, REG)
    value = gradreg.penalty(ragged, X, None, REG, outputs=lambda outputs: outputs.to_tensor(shape=(4, 3)))
    tf.debugging.assert_near(value, gradreg.penalty(model, X, None, REG), rtol=1e-6)
