"""Training in TensorFlow: portable networks against NumPy, Keras' fit against a loop, several replicas."""

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

import gradreg_numpy
import gradreg_tensorflow as gradreg
import numpy as np
import tensorflow as tf
from cases import FLOAT64
from gradreg_core.errors import BatchNormWarning, InputError
from gradreg_core.portable.networks import Activation, BatchNorm, Dense, Dropout, LayerNorm, Network
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_core.training import Plan
from gradreg_tensorflow import training
from gradreg_tensorflow.keras_model import RegularizedModel

ROOT = Path(__file__).parents[2]
NETWORK = Network((4,), (Dense(5), Activation("tanh"), BatchNorm(), LayerNorm(), Dropout(0.5), Dense(3)))


def masks(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {path: 2.0 * (rng.random((6, *shape)) < 0.5) for path, shape in NETWORK.masks().items()}


def plan(dtype: str = "float64", steps: int = 5, **changes: Any) -> Plan:
    rng = np.random.default_rng(0)
    given = {
        "network": NETWORK,
        "params": gradreg_numpy.initialize(NETWORK, 0),
        "x": rng.normal(size=(20, 4)),
        "y": rng.integers(0, 3, 20),
        "batches": rng.integers(0, 20, (steps, 6)),
        "reg": DataGrad(lambda step: 0.1 * (step % 3)) + SpectReg(0.2, every=2) + WeightDecay(1e-3),
        "learning_rate": lambda step: 0.05 / (1 + step),
        "masks": masks,
        "dtype": dtype,
    }
    return Plan(**(given | changes))


def by_hand(plan: Plan) -> tuple[dict[str, np.ndarray], list[float]]:
    """Adam (Kingma, Ba 2015, algorithm 1) on the reference's gradients."""
    params = {path: np.array(value) for path, value in plan.params.items()}
    first, second = ({path: 0.0 * params[path] for path in plan.network.weights()} for _ in range(2))
    losses = []
    for step, batch in enumerate(plan.batches):
        model = gradreg_numpy.Model(plan.network, params, plan.masks(step))
        x, y = plan.x[batch], plan.y[batch]
        losses.append(float(gradreg_numpy.loss(model, x, y, plan.reg, step=step)[0]))
        for path, slope in gradreg_numpy.gradient(model, x, y, plan.reg, step=step, of="total")[0].items():
            first[path] = 0.9 * first[path] + 0.1 * slope
            second[path] = 0.999 * second[path] + 0.001 * slope**2
            corrected = first[path] / (1 - 0.9 ** (step + 1)), second[path] / (1 - 0.999 ** (step + 1))
            params[path] = params[path] - plan.learning_rate(step) * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return params, losses


def test_a_run_equals_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "_CHUNK", 2)  # the state is carried over from one chunk to the next
    wanted, losses = by_hand(plan())
    found = training.train(plan())
    # Adam divides small gradients by their own size, so a relative error of 1e-15 in them grows to one of 1e-11.
    np.testing.assert_allclose(found.losses, losses, rtol=1e-10)
    assert found.losses.dtype == np.float64
    assert set(found.params) == set(wanted)
    for path, value in wanted.items():
        np.testing.assert_allclose(found.params[path], value, rtol=1e-9, atol=1e-12, err_msg=path)
    single = training.train(plan("float32"))
    assert {value.dtype for value in single.params.values()} == {np.dtype("float32")}
    np.testing.assert_allclose(single.losses, losses, rtol=1e-4)  # five steps of float32


def test_a_run_without_regularizer_masks_or_steps() -> None:
    found = training.train(plan(reg=None, masks=None, network=NETWORK))
    assert found.losses[-1] < found.losses[0]
    nothing = training.train(plan(batches=np.zeros((0, 6), int)))
    assert nothing.losses.shape == (0,)
    np.testing.assert_array_equal(nothing.params["0.weight"], plan().params["0.weight"])


# --- Keras -----------------------------------------------------------------------------------------------------------
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


@functools.cache
def fitted(compiled: bool) -> tuple[RegularizedModel, dict[str, list[float]]]:
    model = RegularizedModel(make(), REG, batch_norm="allow")
    model.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"], jit_compile=compiled)
    return model, model.fit(batches(), epochs=2, verbose=0, shuffle=False).history


@pytest.mark.parametrize("compiled", [False, True])
def test_fit_equals_a_loop(compiled: bool) -> None:
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


def test_evaluate_and_predict_are_without_the_penalty() -> None:
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
    with pytest.raises(InputError, match=r"shape \(None, 6\) has no static shape.*drop_remainder=True"):
        model.fit(X, Y, 20, verbose=0)


@pytest.mark.parametrize("loss", ["mse", keras.losses.mean_squared_error, keras.losses.MeanSquaredError()])
def test_datagrad_in_fit_is_of_the_compiled_loss(loss: Any) -> None:
    keras.utils.set_random_seed(0)
    line = keras.Sequential([layers.Input((6,)), layers.Dense(2)])
    model = RegularizedModel(line, DataGrad(1.0))
    model.compile(keras.optimizers.SGD(0.0), loss, jit_compile=False)
    targets = X[:16, :2]
    kernel, z = line.layers[0].kernel.numpy(), line(X[:16]).numpy()
    found = model.fit(X[:16], targets, 16, verbose=0, shuffle=False).history["penalty"][0]
    # The loss of a sample is the mean of (z - t)^2 over two outputs, so its gradient is W (z - t).
    wanted = (((z - targets) @ kernel.T) ** 2).sum(1).mean()
    assert found == pytest.approx(wanted, rel=1e-5)  # float32


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
    return np.concatenate([each.numpy().ravel() for each in inner.weights] + [history["loss"], history["penalty"]])

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
