"""Losses that take the labels first, of Keras in every framework that it runs on, and of TensorFlow."""

import functools
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradreg_tensorflow as gradreg
import gradreg_torch
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.presets import DataGrad, SpectReg

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X, WEIGHT = tf.constant(RNG.normal(size=(6, 5))), tf.constant(RNG.normal(size=(5, 3)))
CLASSES = np.array([0, 2, 1, 1, 0, 2])
HOT = np.eye(3)[CLASSES]
LOSSES = keras.losses


def model(x: tf.Tensor) -> tf.Tensor:
    return tf.tanh(x @ WEIGHT)


def entropy(y_true: Any, y_pred: Any) -> Any:
    return -tf.reduce_sum(y_true * tf.nn.log_softmax(y_pred), -1)


class Own(LOSSES.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return entropy(y_true, y_pred)


CROSS_ENTROPIES: dict[str, tuple[Any, Any]] = {
    "object": (LOSSES.CategoricalCrossentropy(from_logits=True, reduction="none"), HOT),
    "object that means": (LOSSES.CategoricalCrossentropy(from_logits=True), HOT),
    "its method": (LOSSES.CategoricalCrossentropy(from_logits=True).call, HOT),
    "sparse object": (LOSSES.SparseCategoricalCrossentropy(from_logits=True), CLASSES),
    "labels of a second axis": (LOSSES.SparseCategoricalCrossentropy(from_logits=True), CLASSES[:, None]),
    "partial": (functools.partial(LOSSES.categorical_crossentropy, from_logits=True), HOT),
    "partial of a partial": (
        functools.partial(functools.partial(LOSSES.sparse_categorical_crossentropy, axis=-1), from_logits=True),
        CLASSES,
    ),
    "subclass": (Own(), HOT),
    "names": (entropy, HOT),
    "names in tf.function": (tf.function(entropy), HOT),
    "tf.nn": (tf.nn.softmax_cross_entropy_with_logits, HOT),
    "tf.nn sparse": (tf.nn.sparse_softmax_cross_entropy_with_logits, CLASSES),
    "gradreg's order": (lambda z, y: -tf.reduce_sum(y * tf.nn.log_softmax(z), -1), HOT),
}


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_a_cross_entropy_is_the_same_in_any_order(name: str, mode: str) -> None:
    loss_fn, y = CROSS_ENTROPIES[name]
    call: Any = lambda x: gradreg.loss(model, x, y, DataGrad(1.0), loss_fn=loss_fn)[0]  # noqa: E731
    wanted = gradreg.loss(model, X, CLASSES, DataGrad(1.0))[0]
    # Keras clips no logits, and rounds in float64 like the default.
    assert float((call if mode == "eager" else tf.function(call))(X)) == pytest.approx(float(wanted), rel=1e-12)


def test_a_loss_of_outputs_and_one_of_positions() -> None:
    x, targets = tf.constant(RNG.normal(size=(4, 2, 5))), RNG.normal(size=(4, 2, 3))
    squares = np.mean((model(x).numpy() - targets) ** 2)
    for loss_fn in (LOSSES.MeanSquaredError(), LOSSES.mean_squared_error):
        total, _ = gradreg.loss(model, x, targets, None, loss_fn=loss_fn, class_axis=-1)
        assert float(total) == pytest.approx(squares, rel=1e-12)


DICE = LOSSES.Dice(axis=(1, 2))
REFUSED: dict[str, tuple[type, str, Any]] = {
    "sum": (InputError, r"adds the losses up.*reduction='none', and normalizer=1\.0", LOSSES.MeanSquaredError("sum")),
    "class": (InputTypeError, r"got its class; pass MeanSquaredError\(\)", LOSSES.MeanSquaredError),
    "metric": (InputTypeError, "got the metric MeanSquaredError", keras.metrics.MeanSquaredError()),
    "labels given": (InputError, "its labels already", functools.partial(LOSSES.mean_squared_error, HOT)),
    "over the batch": (InputError, r"Dice without axis= adds up over the whole batch", LOSSES.Dice()),
    "over the batch, as a function": (InputError, "tversky without axis=", LOSSES.tversky),
    "between samples": (InputError, "Circle compares the samples", LOSSES.Circle()),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    kind, message, loss_fn = REFUSED[name]
    with pytest.raises(kind, match=message):
        gradreg.loss(model, X, HOT, DataGrad(1.0), loss_fn=loss_fn)


def test_what_the_messages_advise_works() -> None:
    none = LOSSES.MeanSquaredError(reduction="none")
    total, _ = gradreg.loss(model, X, HOT, None, loss_fn=none, normalizer=1.0)
    assert float(total) == pytest.approx(float(np.sum(np.mean((model(X).numpy() - HOT) ** 2, 1))), rel=1e-12)
    images = tf.constant(RNG.uniform(size=(3, 2, 2)))
    total, _ = gradreg.loss(lambda x: x * 1.0, images, images * 0.5, None, loss_fn=DICE, class_axis=-1)
    wanted = [float(DICE(images[i : i + 1] * 0.5, images[i : i + 1])) for i in range(3)]
    assert float(total) == pytest.approx(np.mean(wanted), rel=1e-6)  # Keras rounds to float32


def test_labels_that_the_loss_leaves_out_need_an_index() -> None:
    x, labels = tf.constant(RNG.normal(size=(2, 3, 5))), tf.constant([[0, 1, -1], [2, -1, -1]])
    loss_fn = LOSSES.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    options = {"loss_fn": loss_fn, "class_axis": -1}
    with pytest.raises(InputError, match="Pass ignore_index=-1"):
        gradreg.loss(model, x, labels, None, **options)
    total, _ = gradreg.loss(model, x, labels, None, ignore_index=-1, **options)
    assert float(total) == pytest.approx(float(loss_fn(labels, model(x))), rel=1e-6)  # Keras rounds to float32


def test_outputs_with_a_mask_of_keras_are_refused_with_the_remedy() -> None:
    layers = keras.layers
    embedding = layers.Embedding(7, 5, mask_zero=True, dtype="float64")
    net = keras.Sequential([layers.Input((3,), dtype="int32"), embedding, layers.Dense(3, dtype="float64")])
    tokens, labels = tf.constant([[1, 2, 0], [3, 0, 0]]), np.array([[0, 1, 2], [2, 1, 0]])
    loss_fn = LOSSES.SparseCategoricalCrossentropy(from_logits=True)
    options = {"loss_fn": loss_fn, "class_axis": -1}
    with pytest.raises(InputError, match="carry a mask of Keras"):
        gradreg.loss(net, tokens, labels, None, **options)
    weight = tf.cast(tokens != 0, tf.float64)
    total, _ = gradreg.loss(net, tokens, labels, None, position_weight=weight, **options)
    assert float(total) == pytest.approx(float(loss_fn(labels, net(tokens))), rel=1e-6)  # Keras rounds to float32


def test_a_loss_of_keras_on_another_backend_is_refused() -> None:
    import torch

    with pytest.raises(InputTypeError, match=r"runs on tensorflow in this process.*KERAS_BACKEND=torch"):
        gradreg_torch.loss(torch.tanh, torch.ones(2, 3), torch.ones(2, 3), None, loss_fn=LOSSES.MeanSquaredError())


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_a_model_of_keras_on_another_backend_is_refused(name: str) -> None:
    import torch

    gradreg, x = importlib.import_module(f"gradreg_{name}"), {"torch": torch.ones(2, 3), "jax": np.ones((2, 3))}[name]
    net, reg = keras.Sequential([keras.layers.Dense(3)]), SpectReg(1.0)
    for call in (gradreg.loss, gradreg.penalty, gradreg.check):
        with pytest.raises(InputTypeError, match=rf"model is one of Keras, which runs on tensorflow .*={name} before"):
            call(net, x, np.zeros(2, int), reg)


ELSEWHERE = """
import functools, importlib, sys
import numpy as np
name = sys.argv[1]
gradreg = importlib.import_module(f"gradreg_{name}")
if name == "torch":
    import torch
    array, tanh = torch.tensor, torch.tanh
else:
    import jax, jax.numpy as jnp
    jax.config.update("jax_enable_x64", True)
    array, tanh = jnp.asarray, jnp.tanh
import keras
rng = np.random.default_rng(0)
x, weight, classes = rng.normal(size=(6, 5)), rng.normal(size=(5, 3)), np.array([0, 2, 1, 1, 0, 2])
x, weight, y, hot = array(x), array(weight), array(classes), array(np.eye(3)[classes])
model = lambda x: tanh(x @ weight)
wanted = float(gradreg.loss(model, x, y, gradreg.DataGrad(1.0))[0])
losses = keras.losses
for loss_fn, labels in (
    (losses.CategoricalCrossentropy(from_logits=True, reduction="none"), hot),
    (losses.SparseCategoricalCrossentropy(from_logits=True), y),
    (functools.partial(losses.categorical_crossentropy, from_logits=True), hot),
):
    value = float(gradreg.loss(model, x, labels, gradreg.DataGrad(1.0), loss_fn=loss_fn)[0])
    assert abs(value - wanted) < 1e-12 * wanted, (loss_fn, value, wanted)
net = keras.Sequential([keras.layers.Dense(4, "tanh"), keras.layers.Dense(3)])
net(x)
first, bias, last, _ = net.get_weights()
slope = 1 - np.tanh(keras.ops.convert_to_numpy(x) @ first + bias) ** 2
wanted = (np.einsum("ij,bj,jk->bik", first, slope, last) ** 2).sum() / len(slope)
value = float(gradreg.penalty(net, x, None, gradreg.FrobReg(1.0)))
assert abs(value - wanted) < 1e-6 * wanted, (value, wanted)  # Keras computes in float32
print("right")
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_keras_on_other_backends(backend: str, tmp_path: Path) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    environment = {"PYTHONPATH": paths, "KERAS_BACKEND": backend, "HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, backend], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip().endswith("right"), done.stderr
