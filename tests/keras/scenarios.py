"""Scenarios of a RegularizedModel on any backend of Keras: run with KERAS_BACKEND set, prints lines of JSON."""

import importlib
import json
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

BACKEND = keras.config.backend()
if BACKEND == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)

from keras import layers, losses, optimizers  # noqa: E402

from gradreg_core.errors import BatchNormError, BatchNormWarning, InputError, UnsupportedError  # noqa: E402
from gradreg_keras import DataGrad, FrobReg, OneHot, RegularizedModel, SpectReg, WeightDecay  # noqa: E402

ROUNDOFF = 1e-5
"""Relative, of float32 sums of some hundred products in two orders."""
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((16, 6)).astype("float32"), RNG.standard_normal((16, 3)).astype("float32")
Y = np.arange(16) % 3
LOSS = losses.SparseCategoricalCrossentropy(from_logits=True)
COMPILED = {"run_eagerly": False}
SCENARIOS: dict[str, Callable[[], Any]] = {}


def scenario(function: Callable[[], Any]) -> Callable[[], Any]:
    SCENARIOS[function.__name__] = function
    return function


def small(*more: Any, units: int = 3, seed: int = 0, **options: Any) -> Any:
    """One hidden layer."""
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(4, "tanh", name="hidden", **options)
    return keras.Sequential([layers.Input((6,)), hidden, *more, layers.Dense(units, name="last", **options)])


def fitted(net: Any, reg: Any, x: Any = X, y: Any = Y, batch: int = 16, rate: float = 0.1, **options: Any) -> Any:
    """(model, history) after an epoch; not compiled unless asked for: `any_batch_in_any_mode` compares the two."""
    names = ("outputs", "batch_norm", "normalizer", "seed")
    model = RegularizedModel(net, reg, **{name: options.pop(name) for name in names if name in options})
    settings = {name: options.pop(name) for name in ("run_eagerly", "steps_per_execution") if name in options}
    settings.setdefault("run_eagerly", not {"jit_compile", "steps_per_execution"} & {*options, *settings})
    settings |= {
        "jit_compile": options.pop("jit_compile", BACKEND == "jax" and not settings["run_eagerly"]),
        "loss_weights": options.pop("loss_weights", None),
    }
    optimizer = options.pop("optimizer", None) or optimizers.SGD(rate)
    model.compile(optimizer, options.pop("loss", LOSS), metrics=options.pop("metrics", None), **settings)
    return model, model.fit(x, y, batch, verbose=0, shuffle=False, **options).history


def close(ours: Any, wanted: Any, rtol: float = ROUNDOFF, atol: float = 1e-6) -> None:
    np.testing.assert_allclose(np.asarray(ours, "float64"), np.asarray(wanted, "float64"), rtol=rtol, atol=atol)


def refused(error: type[Exception], words: str, function: Callable[[], Any]) -> None:
    with pytest.raises(error, match=re.escape(words) or None):
        function()


def linear(units: int) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Input((6,)), layers.Dense(units)])


def slopes(net: Any, x: Any, t: Any) -> Any:
    """Of a linear network: the gradients (B, 6) of the mean squared error over the outputs."""
    kernel, bias = (weight.astype("float64") for weight in net.get_weights())
    return 2 / kernel.shape[1] * (x @ kernel + bias - t) @ kernel.T


# --- values ----------------------------------------------------------------------------------------------------------
@scenario
def first_step_on_digits() -> Any:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    keras.utils.set_random_seed(0)
    net = keras.Sequential([layers.Input((64,)), layers.Dense(16, "tanh"), layers.Dense(10)])
    before = net.get_weights()
    reg = DataGrad(5.0) + FrobReg(0.1) + WeightDecay(0.01)
    _, history = fitted(net, reg, (images[:32] / 16).astype("float32"), labels[:32], 32, rate=1.0, **COMPILED)
    step = [(b.astype("float64") - a).tolist() for b, a in zip(before, net.get_weights(), strict=True)]
    return {"before": [weight.tolist() for weight in before], "step": step, "history": history}


@scenario
def labels_as_keras_takes_them() -> None:
    wanted = fitted(small(), DataGrad(1.0))[1]
    onehot = np.eye(3, dtype="float32")[Y]
    soft = losses.CategoricalCrossentropy(from_logits=True)
    for y, loss in [(Y[:, None], LOSS), (Y.astype("float32"), LOSS), (onehot, soft), (onehot.astype("int64"), soft)]:
        history = fitted(small(), DataGrad(1.0), y=y, loss=loss)[1]
        close(history["penalty"], wanted["penalty"])
        close(history["loss"], wanted["loss"])
    close(*(fitted(small(), OneHot(1.0), y=y)[1]["penalty"] for y in (Y, Y[:, None])))
    line = linear(1)
    wanted = (slopes(line, X, T[:, :1]) ** 2).sum(1).mean()  # (B,) labels of (B, 1) outputs
    for loss in ("mse", losses.MeanSquaredError()):
        close(fitted(line, DataGrad(1.0), y=T[:, 0], loss=loss, rate=0.0)[1]["penalty"], [wanted])


@scenario
def probabilities() -> None:
    soft = losses.SparseCategoricalCrossentropy()
    wanted = fitted(small(), DataGrad(1.0))[1]["penalty"]
    close(fitted(softmaxed(), DataGrad(1.0), loss=soft)[1]["penalty"], wanted)
    for loss in (soft, "sparse_categorical_crossentropy"):
        words = "has from_logits=False, so the model returns probabilities"
        refused(InputError, words, lambda loss=loss: fitted(softmaxed(), SpectReg(1.0), loss=loss))
    fitted(softmaxed(), SpectReg(1.0), loss=soft, outputs=lambda returned: returned)


def softmaxed() -> Any:
    inner = small()
    return keras.Sequential([*inner.layers, layers.Softmax()])


@scenario
def weights_of_samples_and_classes() -> None:
    weight, line = np.linspace(0, 3, 16).astype("float32"), linear(3)
    wanted = (weight * (slopes(line, X, T) ** 2).sum(1)).mean()
    for shaped in (weight, weight[:, None]):
        history = fitted(line, DataGrad(1.0), y=T, loss="mse", sample_weight=shaped, rate=0.0)[1]
        close(history["penalty"], [wanted])
    by_class = {0: 0.0, 1: 1.0, 2: 3.0}
    ours = fitted(small(), DataGrad(1.0), class_weight=by_class)[1]
    other = fitted(small(), DataGrad(1.0), sample_weight=np.array([by_class[int(y)] for y in Y], "float32"))[1]
    close(ours["penalty"], other["penalty"])


@scenario
def several_inputs_and_outputs() -> None:
    keras.utils.set_random_seed(0)
    x, more = keras.Input((6,), name="x"), keras.Input((2,), name="more")
    first, second = layers.Dense(3, name="first"), layers.Dense(2, name="second")
    joined = layers.Concatenate()([x, more])
    named = keras.Model({"x": x, "more": more}, {"first": first(joined), "second": second(joined)})
    listed = keras.Model([x, more], named.outputs)
    rest = RNG.standard_normal((16, 2)).astype("float32")
    data, both = {"x": X, "more": rest}, np.concatenate([X, rest], 1)
    t = {"first": T, "second": T[:, :2]}
    weights = {"first": 1.0, "second": 3.0}
    kernels = {layer.name: layer.get_weights() for layer in (first, second)}
    slope = sum(weights[name] * 2 / k.shape[1] * (both @ k + b - t[name]) @ k.T for name, (k, b) in kernels.items())
    wanted = (np.asarray(slope) ** 2).sum(1).mean()
    options: dict[str, Any] = {"rate": 0.0, "loss_weights": weights, "loss": {"first": "mse", "second": "mse"}}
    close(fitted(named, DataGrad(1.0), data, t, **options)[1]["penalty"], [wanted])
    names = listed.output_names
    lists: dict[str, Any] = {"rate": 0.0, "loss": ["mse", "mse"], "loss_weights": [weights[name] for name in names]}
    close(fitted(listed, DataGrad(1.0), [X, rest], [t[name] for name in names], **lists)[1]["penalty"], [wanted])
    norm = (kernels["second"][0].astype("float64") ** 2).sum()
    history = fitted(named, FrobReg(2.0), data, t, outputs="second", **options)[1]
    close(history["penalty"], [2 * norm])
    assert {"first_loss", "second_loss", "loss", "penalty"} <= set(history)
    close(fitted(named, FrobReg(2.0), data, t, outputs="second", rate=0.0, loss="mse")[1]["penalty"], [2 * norm])
    words = "SpectReg is a penalty on one output, and the model has the outputs ['first', 'second']"
    refused(InputError, words, lambda: fitted(named, SpectReg(1.0), data, t, **options))
    words = "outputs='first' leaves out losses"
    refused(InputError, words, lambda: fitted(named, DataGrad(1.0), data, t, outputs="first", **options))


# --- state -----------------------------------------------------------------------------------------------------------
def stateful() -> Any:
    more = [layers.BatchNormalization(), layers.ActivityRegularization(l2=0.1), layers.Dropout(0.5, seed=3)]
    return small(*more, kernel_regularizer="l2")


@scenario
def state_moves_once_and_layers_keep_their_losses() -> None:
    plain = stateful()
    plain.compile(optimizers.SGD(0.0), LOSS, jit_compile=BACKEND == "jax")
    wanted = plain.fit(X, Y, 16, verbose=0, shuffle=False).history
    reg = DataGrad(1.0) + SpectReg(1.0) + SpectReg(0.5)
    model, history = fitted(stateful(), reg, rate=0.0, batch_norm="allow", metrics=["accuracy"], **COMPILED)
    for ours, other in zip(model.model.non_trainable_variables, plain.non_trainable_variables, strict=True):
        close(keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(other))
    close(np.subtract(history["loss"], history["penalty"]), wanted["loss"])
    parts = ["penalty_DataGrad", "penalty_SpectReg_1", "penalty_SpectReg_2"]
    close(sum(np.asarray(history[name]) for name in parts), history["penalty"])
    assert set(history) == {"loss", "accuracy", "penalty", *parts}
    result = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert set(result) == {"loss", "accuracy"}
    close(result["loss"], plain.evaluate(X, Y, verbose=0))
    np.testing.assert_array_equal(model.predict(X, verbose=0), model.model.predict(X, verbose=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", BatchNormWarning)
        refused(BatchNormWarning, "training mode", lambda: fitted(stateful(), SpectReg(1.0)))


@scenario
def frozen_layers_stay() -> None:
    net = small()
    net.layers[0].trainable = False
    before = net.get_weights()
    fitted(net, SpectReg(1.0) + WeightDecay(1.0))
    after = net.get_weights()
    np.testing.assert_array_equal(before[0], after[0])
    assert not np.array_equal(before[2], after[2])


@scenario
def resumes_bit_for_bit() -> None:
    reg = DataGrad(1.0) + SpectReg(0.5)

    def make() -> Any:
        model = RegularizedModel(stateful(), reg, batch_norm="allow", seed=5, class_axis=-1)
        model.compile(optimizers.Adam(0.01), LOSS, metrics=["accuracy"], jit_compile=BACKEND == "jax")
        return model

    def fit(model: Any, until: int, **options: Any) -> Any:
        return model.fit(X, Y, 8, epochs=until, verbose=0, shuffle=False, **options).history

    class Stops(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise InterruptedError

    with tempfile.TemporaryDirectory() as folder:
        whole, stopped, resumed = make(), make(), make()
        checkpoint = keras.callbacks.ModelCheckpoint(f"{folder}/{{epoch}}.keras")
        fit(whole, 2, callbacks=[checkpoint])
        backup = [keras.callbacks.BackupAndRestore(f"{folder}/backup") for _ in range(2)]
        refused(InterruptedError, "", lambda: fit(stopped, 2, callbacks=[backup[0], Stops()]))
        fit(resumed, 2, callbacks=[backup[1]])
        loaded = keras.saving.load_model(Path(folder) / "1.keras")
        assert type(loaded) is RegularizedModel
        assert loaded.reg == reg
        fit(loaded, 2, initial_epoch=1)
        for wanted, one, other in zip(whole.get_weights(), resumed.get_weights(), loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(one, wanted)
            np.testing.assert_array_equal(other, wanted)
    config = loaded.get_config()
    assert (config["seed"], config["class_axis"]) == (5, -1)
    words = "target= is a function or a model and cannot be saved"
    refused(InputError, words, RegularizedModel(small(), reg, target=lambda x: x).get_config)


@scenario
def calls_on_a_keras_model_see_its_batch_normalisation() -> None:
    gradreg = importlib.import_module(f"gradreg_{BACKEND}")
    model, x, reg = small(layers.BatchNormalization(name="normal")), keras.ops.convert_to_tensor(X), SpectReg(1.0)
    words = "normal (BatchNormalization) is in training mode"
    in_training = (lambda x: model(x, training=True), x), (model, gradreg.Inputs(x, training=True))
    for called, given in in_training:
        refused(BatchNormError, words, lambda c=called, g=given: gradreg.loss(c, g, Y, reg, batch_norm="error"))
        with pytest.warns(BatchNormWarning, match=re.escape(words)) as caught:
            gradreg.penalty(called, given, None, reg)
        assert [warning.filename for warning in caught] == [__file__]
        report = str(gradreg.check(called, given, Y, reg))
        assert words in report
        assert "sample 0 reaches 15 of 15 others" in report
    gradreg.penalty(model, x, None, reg, batch_norm="error")
    gradreg.penalty(lambda x: model(x, training=False), x, None, reg, batch_norm="error")
    model.get_layer("normal").trainable = False
    for called, given in in_training:  # which leaves a frozen layer at its running averages
        gradreg.penalty(called, given, None, reg, batch_norm="error")


# --- ways to run -----------------------------------------------------------------------------------------------------
@scenario
def any_batch_in_any_mode() -> None:
    ways: list[dict[str, Any]] = [
        COMPILED,
        {"run_eagerly": True},
        *([{"jit_compile": "auto"}] if BACKEND != "jax" else []),
    ]
    ways += [{"steps_per_execution": 2}] if BACKEND != "torch" else []
    results = [fitted(small(), SpectReg(1.0), batch=6, **way) for way in ways]
    for model, history in results[1:]:
        close(history["penalty"], results[0][1]["penalty"])
        for ours, wanted in zip(model.get_weights(), results[0][0].get_weights(), strict=True):
            close(ours, wanted)
    if BACKEND == "torch":
        refused(UnsupportedError, "jit_compile=True", lambda: fitted(small(), SpectReg(1.0), jit_compile=True))


@scenario
def micro_batches_have_draws_of_their_own() -> None:
    whole, history = fitted(small(), SpectReg(1.0))
    parts = np.concatenate([np.arange(0, 16, 2), np.arange(1, 16, 2)])
    optimizer = optimizers.SGD(0.1, gradient_accumulation_steps=2)
    split, halves = fitted(small(), SpectReg(1.0), X[parts], Y[parts], 8, optimizer=optimizer, **COMPILED)
    close(halves["penalty"], history["penalty"])
    for ours, wanted in zip(split.get_weights(), whole.get_weights(), strict=True):
        close(ours, wanted)
    same = np.concatenate([X[:8], X[:8]]), np.concatenate([Y[:8], Y[:8]])
    one = fitted(small(), SpectReg(1.0), X[:8], Y[:8], 8, optimizer=optimizers.SGD(0.1, gradient_accumulation_steps=2))
    two = fitted(small(), SpectReg(1.0), *same, 8, optimizer=optimizers.SGD(0.1, gradient_accumulation_steps=2))
    assert abs(one[1]["penalty"][0] - two[1]["penalty"][0]) > 1e-3


@scenario
def half_precision() -> None:
    wanted = fitted(small(), DataGrad(1.0) + SpectReg(0.1))
    for name, epsilon in (("mixed_float16", 2**-10), ("mixed_bfloat16", 2**-7)):
        before = small().get_weights()
        keras.config.set_dtype_policy(name)
        try:
            model, history = fitted(small(), DataGrad(1.0) + SpectReg(0.1))
        finally:
            keras.config.set_dtype_policy("float32")
        assert (type(model.optimizer).__name__ == "LossScaleOptimizer") == (name == "mixed_float16")
        close(history["penalty"], wanted[1]["penalty"], rtol=20 * epsilon)  # some twenty roundings
        for ours, other, start in zip(model.get_weights(), wanted[0].get_weights(), before, strict=True):
            assert np.linalg.norm(ours - other) <= 20 * epsilon * np.linalg.norm(other - start) + 1e-6


@scenario
def settings_are_checked() -> None:
    model = RegularizedModel(small(), SpectReg(1.0))
    refused(InputError, "expected a loss, got None", lambda: model.compile("sgd"))
    words = "has reduction='sum', but penalties are means over the samples"
    refused(InputError, words, lambda: model.compile("sgd", losses.MeanSquaredError(reduction="sum")))
    words = "expected sample_weight of shape (B,), one weight per sample"
    places = keras.Sequential([layers.Input((2, 6)), layers.Dense(3)])
    pairs, weight = np.stack([X, X], 1), np.ones((16, 2), "float32")
    refused(
        InputError,
        words,
        lambda: fitted(places, DataGrad(1.0), pairs, pairs[..., :3], loss="mse", sample_weight=weight),
    )


@scenario
def replicas_train_as_one() -> None:
    if BACKEND != "tensorflow":
        return

    def trained(strategy: Any) -> Any:
        with strategy.scope():
            return fitted(small(), SpectReg(1.0) + DataGrad(1.0), x=X[:12], y=Y[:12], batch=8, **COMPILED)

    one = trained(tf.distribute.get_strategy())
    one_by_one = tf.distribute.ReductionToOneDevice()  # a process has one group of collectives
    for size, way in ((2, one_by_one), (4, None)):
        devices = [f"CPU:{index}" for index in range(size)]
        several = trained(tf.distribute.MirroredStrategy(devices, cross_device_ops=way))
        close(several[1]["penalty"], one[1]["penalty"])
        close(several[1]["loss"], one[1]["loss"])
        for ours, wanted in zip(several[0].get_weights(), one[0].get_weights(), strict=True):
            close(ours, wanted)


@scenario
def masks_follow_the_tensors_that_carry_them() -> None:
    """Layers read a mask from the tensor: of the input, cut with its samples, and behind a tap."""
    gradreg = importlib.import_module(f"gradreg_{BACKEND}")
    keras.utils.set_random_seed(0)
    embedding, last = layers.Embedding(7, 4, mask_zero=True), layers.Dense(3)
    recurrent = layers.LSTM(5, unroll=True, use_cudnn=False)
    tokens, y = keras.ops.array([[1, 2, 0], [4, 0, 0], [6, 1, 2]]), keras.ops.array([0, 1, 2])
    given = {"h": keras.ops.copy(embedding(tokens)), "mask": tokens != 0}  # a copy has no mask
    told = lambda x: last(recurrent(x["h"], mask=x["mask"]))  # noqa: E731
    calls = (
        (FrobReg(1.0), {}), (SpectReg(1.0, fraction=0.67), {}), (SpectReg(1.0, side="input"), {}),
        (SpectReg(1.0, side="input", method="difference"), {}), (DataGrad(1.0), {}), (FrobReg(1.0), {"chunk_size": 2}),
    )  # fmt: skip
    for reg, options in calls:
        wanted = gradreg.loss(told, given, y, reg, **options)[1].penalty[0]
        read = gradreg.loss(lambda h: last(recurrent(h)), embedding(tokens), y, reg, **options)[1].penalty[0]
        assert float(read) == float(wanted), reg
    tapped = lambda x: last(recurrent(gradreg.tap("h", embedding(x))))  # noqa: E731
    read = gradreg.loss(tapped, tokens, y, FrobReg(1.0, at="h"))[1].penalty[0]
    close(float(read), float(gradreg.loss(told, given, y, FrobReg(1.0))[1].penalty[0]))


def main(names: list[str]) -> None:
    """Print one line of JSON per scenario."""
    for name in names or SCENARIOS:
        try:
            outcome = {"value": SCENARIOS[name]()}
        except Exception:
            outcome = {"error": traceback.format_exc()[-3000:]}
        print(json.dumps({name: outcome}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # without the teardown of a framework's threads
