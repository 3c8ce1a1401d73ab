"""Keras' fit with a regularizer: against a loop, with sample weights, on several replicas."""

import functools
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import gradreg_tensorflow as gradreg
from cases import FLOAT64
from gradreg_core.errors import BatchNormWarning, InputError
from gradreg_core.presets import DataGrad, OneHot, SpectReg, WeightDecay
from gradreg_tensorflow.keras_model import RegularizedModel

ROOT = Path(__file__).parents[2]
REG = DataGrad(1.0) + SpectReg(0.1)
X = np.random.default_rng(0).standard_normal((48, 6)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 5, 48)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make() -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(8, "tanh"), layers.BatchNormalization(), layers.LayerNormalization()]
    return keras.Sequential([layers.Input((6,)), *hidden, layers.Dense(5, kernel_regularizer="l2")])


def batches(size: int = 16) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(size, drop_remainder=True)


Fitted = tuple[RegularizedModel, dict[str, list[float]]]


@pytest.fixture(scope="module")
def fitted() -> Callable[[bool], Fitted]:
    """A function that fits once per argument."""
    return functools.cache(fit)


def fit(compiled: bool) -> Fitted:
    model = RegularizedModel(make(), REG, batch_norm="allow")
    model.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"], jit_compile=compiled)
    return model, model.fit(batches(), epochs=2, verbose=0, shuffle=False).history


@pytest.mark.parametrize("compiled", [False, True])
def test_fit_equals_a_loop(fitted: Callable[[bool], Fitted], compiled: bool) -> None:
    model, optimizer, losses, penalties = make(), keras.optimizers.SGD(0.1), [], []
    for step, (x, y) in enumerate([*batches(), *batches()]):
        with tf.GradientTape() as tape:
            total, parts = gradreg.loss(lambda x: model(x, training=True), x, y, REG, step=step, batch_norm="allow")
            total += sum(model.losses)
        optimizer.apply_gradients(
            zip(tape.gradient(total, model.trainable_variables), model.trainable_variables, strict=True)
        )
        losses.append(float(total))
        penalties.append(float(sum(parts.penalty)))
    trained, history = fitted(compiled)
    # Six steps of float32 in two orders of summation.
    np.testing.assert_allclose(history["loss"], np.reshape(losses, (2, 3)).mean(1), rtol=1e-5)
    np.testing.assert_allclose(history["penalty"], np.reshape(penalties, (2, 3)).mean(1), rtol=1e-4)
    assert set(history) == {"accuracy", "loss", "penalty"}
    for mine, wanted in zip(trained.model.weights, model.weights, strict=True):  # moving statistics too
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5, err_msg=wanted.path)


def test_evaluate_and_predict_are_without_the_penalty(fitted: Callable[[bool], Fitted]) -> None:
    model, _ = fitted(False)
    results = model.evaluate(batches(), verbose=0, return_dict=True)
    outputs = model.predict(X, verbose=0)
    np.testing.assert_array_equal(outputs, model.model.predict(X, verbose=0))
    wanted = float(LOSS(Y, outputs)) + float(sum(model.model.losses))
    assert results["loss"] == pytest.approx(wanted, rel=1e-5)  # float32


def test_fit_weights_samples() -> None:
    weights = np.linspace(0, 2, 16).astype(np.float32)
    model = RegularizedModel(make(), REG, batch_norm="allow")
    model.compile(keras.optimizers.SGD(0.0), LOSS, jit_compile=False)
    history = model.fit(X[:16], Y[:16], 16, sample_weight=weights, verbose=0, shuffle=False).history
    plain = make()
    x, y = tf.constant(X[:16]), Y[:16]
    options: dict[str, Any] = {"sample_weight": weights, "batch_norm": "allow"}
    wanted = gradreg.penalty(lambda x: plain(x, training=True), x, y, REG, **options)
    assert history["penalty"][0] == pytest.approx(float(wanted), rel=1e-5)  # float32


def test_fit_says_what_it_needs() -> None:
    model = RegularizedModel(make(), REG)
    with pytest.raises(InputError, match=r"RegularizedModel\.compile: expected one loss, got None"):
        model.compile("sgd")
    model.compile("sgd", LOSS, jit_compile=False)
    with pytest.warns(BatchNormWarning, match="is in training mode"):
        model.fit(X, Y, 16, verbose=0)


@pytest.mark.parametrize("loss", ["mse", keras.losses.mean_squared_error, keras.losses.MeanSquaredError()])
def test_datagrad_in_fit_is_of_the_compiled_loss(loss: Any) -> None:
    keras.utils.set_random_seed(0)
    line = keras.Sequential([layers.Input((6,)), layers.Dense(2)])
    model = RegularizedModel(line, DataGrad(1.0))
    model.compile(keras.optimizers.SGD(0.0), loss, jit_compile=False)
    targets = X[:16, :2]
    kernel, z = line.layers[0].kernel.numpy(), line(X[:16]).numpy()
    penalty = model.fit(X[:16], targets, 16, verbose=0, shuffle=False).history["penalty"][0]
    # The loss of a sample is the mean of (z - t)^2 over two outputs, so its gradient is W (z - t).
    wanted = (((z - targets) @ kernel.T) ** 2).sum(1).mean()
    assert penalty == pytest.approx(wanted, rel=1e-5)  # float32


REPLICAS = """
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
import keras
from gradreg_core.presets import DataGrad
from gradreg_tensorflow.keras_model import RegularizedModel
keras.config.set_floatx("float64")
x, y = np.random.default_rng(0).standard_normal((32, 6)), np.arange(32) % 3
data = tf.data.Dataset.from_tensor_slices((x, y)).batch(16, drop_remainder=True)

def trained(strategy):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(5, "tanh"), keras.layers.LayerNormalization(), keras.layers.Dense(3)]
        inner = keras.Sequential([keras.layers.Input((6,)), *layers])
        model = RegularizedModel(inner, DataGrad(1.0))
        model.compile(
            keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False
        )
    history = model.fit(data, verbose=0, shuffle=False).history
    weights = [weight.numpy().ravel() for weight in inner.weights]
    return np.concatenate([*weights, history["loss"], history["penalty"]])

one, two = trained(tf.distribute.get_strategy()), trained(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
print(np.linalg.norm(one - two) / np.linalg.norm(one))
"""


def test_two_replicas_train_as_one(tmp_path: Path) -> None:
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'backends'}", "TF_CPP_MIN_LOG_LEVEL": "3", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < FLOAT64


# --- batches, inputs and labels as Keras allows them -----------------------------------------------------------------
def small(hidden: int = 0) -> keras.Model:
    keras.utils.set_random_seed(0)
    inner = [layers.Dense(hidden, "tanh")] if hidden else []
    return keras.Sequential([layers.Input((6,)), *inner, layers.Dense(5)])


@pytest.mark.parametrize("options", [{}, {"steps_per_execution": 2}, {"run_eagerly": True}], ids=repr)
def test_the_last_batch_may_be_smaller(options: dict[str, Any]) -> None:
    plain, optimizer, penalties = small(4), keras.optimizers.SGD(0.1), []
    for step, start in enumerate(range(0, 48, 20)):
        x, y = tf.constant(X[start : start + 20]), Y[start : start + 20]
        with tf.GradientTape() as tape:
            total, parts = gradreg.loss(plain, x, y, REG, step=step)
        weights = plain.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(total, weights), weights, strict=True))
        penalties.append(float(sum(parts.penalty)))
    model = RegularizedModel(small(4), REG)
    model.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=False, **options)
    history = model.fit(X, Y, 20, verbose=0, shuffle=False).history
    assert history["penalty"][0] == pytest.approx(np.mean(penalties), rel=1e-5)  # float32
    for mine, wanted in zip(model.model.weights, plain.weights, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-4, atol=1e-5, err_msg=wanted.path)  # three steps of float32


def test_several_inputs_by_name() -> None:
    def make() -> keras.Model:
        keras.utils.set_random_seed(0)
        image, kind = keras.Input((6,), name="image"), keras.Input((), dtype="int32", name="kind")
        hidden = layers.Dense(4, "tanh")(image) * layers.Embedding(5, 4)(kind)
        return keras.Model({"image": image, "kind": kind}, layers.Dense(5)(hidden))

    x = {"image": X[:16], "kind": Y[:16].astype(np.int32)}
    model = RegularizedModel(make(), REG)
    model.compile(keras.optimizers.SGD(0.0), LOSS, jit_compile=False)
    history = model.fit(x, Y[:16], 16, verbose=0, shuffle=False).history
    tensors = {name: tf.constant(value) for name, value in x.items()}
    wanted = gradreg.penalty(make(), tensors, Y[:16], REG)
    assert history["penalty"][0] == pytest.approx(float(wanted), rel=1e-5)  # float32


def test_class_labels_may_have_a_second_axis() -> None:
    model = RegularizedModel(small(), OneHot(1.0))
    model.compile(keras.optimizers.SGD(0.0), LOSS, jit_compile=False)
    history = model.fit(X[:16], Y[:16, None], 16, verbose=0, shuffle=False).history
    wanted = gradreg.penalty(small(), tf.constant(X[:16]), Y[:16], OneHot(1.0))
    assert history["penalty"][0] == pytest.approx(float(wanted), rel=1e-5)  # float32


def test_weight_decay_sees_the_parameters() -> None:
    plain = small()
    model = RegularizedModel(small(), WeightDecay(2.0))
    model.compile(keras.optimizers.SGD(0.0), LOSS, jit_compile=False)
    penalty = model.fit(X[:16], Y[:16], 16, verbose=0, shuffle=False).history["penalty"][0]
    wanted = gradreg.penalty(plain, tf.constant(X[:16]), None, WeightDecay(2.0))
    assert penalty == pytest.approx(float(wanted), rel=1e-5)  # float32


# --- saving ----------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras, where it reads the file
def test_a_saved_model_goes_on_as_it_would_have(tmp_path: Path) -> None:
    model = RegularizedModel(make(), REG, batch_norm="allow", class_axis=-1, sample_ids=np.arange(7, 23))
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"], jit_compile=False)
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
    model.fit(batches(), epochs=1, verbose=0, shuffle=False, callbacks=[checkpoint, backup])
    loaded = keras.saving.load_model(tmp_path / "1.keras")
    assert isinstance(loaded, RegularizedModel)
    assert loaded.reg == REG
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    histories = [one.fit(batches(), epochs=1, verbose=0, shuffle=False).history for one in (model, loaded)]
    # The loaded model is traced into another graph, whose sums may round in another order: some units of float32, which
    # Adam divides by gradients of order 0.01.
    for name in ("loss", "accuracy", "penalty"):
        np.testing.assert_allclose(histories[0][name], histories[1][name], rtol=1e-6)
    for mine, wanted in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_allclose(mine.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_a_model_from_its_configuration() -> None:
    model = RegularizedModel(make(), REG, directions=np.ones((2, 5)), name="mine")
    copy = RegularizedModel.from_config(model.get_config())
    assert (copy.name, copy.reg) == ("mine", REG)
    assert copy.get_config()["directions"] == model.get_config()["directions"]
    with pytest.raises(InputError, match=r"params= cannot be saved\. Leave it out"):
        RegularizedModel(make(), REG, params=[tf.ones(3)]).get_config()


def test_every_keyword_has_a_name() -> None:
    """Of the model: those of `loss` that a training step does not set itself. Of compile: those of Keras."""
    set_by_the_step = {"model", "x", "y", "reg", "step", "loss_fn", "sample_weight", "outputs", "position_weight"}
    assert set(inspect.signature(gradreg.loss).parameters) - set_by_the_step == set(
        inspect.signature(RegularizedModel).parameters
    ) - {"model", "reg", "name"}
    names = inspect.signature(RegularizedModel.compile).parameters
    assert set(names) == set(inspect.signature(keras.Model.compile).parameters)
