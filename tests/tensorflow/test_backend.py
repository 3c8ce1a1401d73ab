"""TensorFlow against the NumPy reference: eager, tf.function and XLA; draws, retracing, dtypes, refusals."""

import functools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import pytest

import gradreg_numpy
import gradreg_tensorflow as gradreg
import numpy as np
import tensorflow as tf
from cases import FLOAT64, GENERAL, NETWORKS, PRESETS, named, perturbation, problem, relative
from gradreg_core.errors import (
    BatchNormError,
    BatchNormWarning,
    DoubleBackwardError,
    InputError,
    InputTypeError,
)
from gradreg_core.presets import (
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    InputFisher,
    JacReg,
    SpectralNormReg,
    SpectReg,
    WeightDecay,
)
from gradreg_core.projections import orthonormal, top_k
from gradreg_core.random import Draws
from gradreg_core.spec import JacobianPenalty, Regularizer, Sum
from gradreg_numpy.draws import draws as reference_draws
from gradreg_tensorflow.backend import TensorFlowBackend
from gradreg_tensorflow.networks import apply

STEP = 2


def schedule(step: Any) -> Any:
    """As in `cases`, with the conversion that TensorFlow does not do by itself."""
    return 0.125 * ((tf.cast(step, tf.float64) if tf.is_tensor(step) else step) + 1)


def traceable(reg: Regularizer) -> Regularizer:
    return Sum(tuple(replace(term, weight=schedule) if callable(term.weight) else term for term in reg.terms))


FEW = Sum((DataGrad(2.0), SpectReg(0.3, seed=7), JacReg(0.5)))
WHOLE = [each for each in GENERAL if getattr(each.terms[0], "fraction", 1) == 1]
PARTS = [each for each in GENERAL if getattr(each.terms[0], "fraction", 1) < 1]
HALF = traceable(sum(PRESETS[::2] + WHOLE[1::2]))
CRITICS = sum([*PRESETS[8:12], InputFisher(0.5), ConfidencePenalty(0.2)], FEW)
SOME = traceable(
    SpectReg(schedule, seed=5)
    + JacReg(0.5)
    + DataGrad(2.0, every=2)
    + InputFisher(0.9, seed=2)
    + SpectralNormReg(0.4, iterations=2)
    + JacobianPenalty(1.0, projection=orthonormal(2), output="log_probabilities", norm="l1")
    + JacobianPenalty(1.0, projection=top_k(2), norm="linf", squared=False)
)
TRACED = [
    ("graph", "dense", HALF),
    ("graph", "critic", CRITICS),
    ("graph", "dense", PARTS[1]),
    ("xla", "dense", SOME),
    ("xla", "dense", PARTS[0]),
    ("xla", "conv", DataGrad(2.0)),
]
EAGER = [*(("dense", reg) for reg in PRESETS + GENERAL), *((name, FEW) for name in NETWORKS if name != "dense")]
MODES: dict[str, Callable[..., Any]] = {
    "eager": lambda function: function,
    "graph": tf.function,
    "xla": functools.partial(tf.function, jit_compile=True),
}


def tensors(model: gradreg_numpy.Model, dtype: Any = tf.float64) -> dict[str, tf.Tensor]:
    return {path: tf.constant(value, dtype) for path, value in model.params.items()}


def evaluated(
    model: gradreg_numpy.Model, x: Any, y: Any, reg: Regularizer, mode: str, dtype: Any = tf.float64
) -> tuple[float, list[float], dict[str, np.ndarray]]:
    """The total, the penalties, and the gradients by path and for the input."""
    params, paths = tensors(model, dtype), list(model.network.weights())

    def run(x: tf.Tensor, step: tf.Tensor, weights: list[tf.Tensor]) -> Any:
        arrays = params | dict(zip(paths, weights, strict=True))
        with tf.GradientTape() as tape:
            tape.watch([x, *weights])
            total, parts = gradreg.loss(
                lambda x: apply(model.network, arrays, x), x, y, reg, step=step, params=weights, batch_norm="allow"
            )
        return total, parts.penalty, tape.gradient(total, [x, *weights], unconnected_gradients="zero")

    call = MODES[mode](run)
    total, penalties, (inputs, *weights) = call(
        tf.constant(x, dtype), tf.constant(STEP), [params[path] for path in paths]
    )
    gradients = {path: each.numpy().astype(np.float64) for path, each in zip(paths, weights, strict=True)}
    return float(total), [float(each) for each in penalties], gradients | {"x": inputs.numpy().astype(np.float64)}


@functools.cache
def oracle(name: str, reg: Regularizer) -> tuple[float, list[float], dict[str, np.ndarray]]:
    model, x, y = problem(name)
    weights, inputs = gradreg_numpy.gradient(model, x, y, reg, step=STEP, of="total")
    total = float(gradreg_numpy.loss(model, x, y, reg, step=STEP)[0])
    return total, gradreg_numpy.penalty_terms(model, x, y, reg, step=STEP), weights | {"x": inputs}


def compare(name: str, reg: Regularizer, mode: str) -> None:
    total, penalties, gradients = evaluated(*problem(name), reg, mode)
    wanted_total, wanted_penalties, wanted = oracle(name, reg)
    np.testing.assert_allclose(penalties, wanted_penalties, rtol=FLOAT64)
    assert abs(total - wanted_total) <= FLOAT64 * abs(wanted_total)
    assert relative(gradients, wanted) <= FLOAT64


@pytest.mark.parametrize(
    ("name", "reg"),
    [pytest.param(name, each.values[0], id=f"{name}-{each.id}") for name, reg in EAGER for each in named([reg])],
)
def test_eager_equals_the_reference(name: str, reg: Regularizer) -> None:
    compare(name, reg, "eager")


@pytest.mark.parametrize(
    ("mode", "name", "reg"), [pytest.param(*each, id=f"{each[0]}-{each[1]}-{len(each[2].terms)}") for each in TRACED]
)
def test_traced_with_a_traced_step_equals_the_reference(mode: str, name: str, reg: Regularizer) -> None:
    compare(name, reg, mode)


@pytest.mark.parametrize(
    ("name", "reg", "mode"),
    [("dense", DataGrad(2.0), "eager"), ("dense", SpectralNormReg(0.4), "eager"), ("conv", JacReg(0.5), "xla")],
)
def test_float32_is_as_good_as_its_inputs(name: str, reg: Regularizer, mode: str) -> None:
    model, x, y = problem(name)
    model = gradreg_numpy.Model(model.network, {path: np.float64(np.float32(v)) for path, v in model.params.items()})
    x = np.float64(np.float32(x))
    wanted = gradreg_numpy.gradient(model, x, y, reg, step=STEP, of="total")[0]
    moved = perturbation(lambda m, at: gradreg_numpy.gradient(m, at, y, reg, step=STEP, of="total")[0], model, x)
    _, _, found = evaluated(model, x, y, reg, mode, tf.float32)
    found.pop("x")
    # A right computation rounds at each of some ten layers as much as its inputs do once; wrong ones are off by 1e4 P.
    assert relative(found, wanted) <= 8 * moved


@pytest.mark.parametrize("mode", MODES)
def test_draws_are_bit_identical(mode: str) -> None:
    ids = np.array([0, 1, 2**31 - 1, -5, 7], np.int32)
    seed, step = 2**63 + 12345, 2**33 + 17

    def drawn(source: Draws) -> list[Any]:
        return [
            source.signs(1, (2, 7), 100),
            source.gaussians(0, (0, 3), 5),
            source.uniforms(0, (0, 3), 4),
            source.integers(0, (0, 3), 50_257),
        ]

    backend = TensorFlowBackend()
    call = MODES[mode](lambda ids, step: drawn(Draws(backend, seed, step, ids)))
    given = [step, tf.constant(step), tf.Variable(step, dtype=tf.int64)] if mode == "eager" else [tf.constant(step)]
    for each in given:
        for mine, reference in zip(call(tf.constant(ids), each), drawn(reference_draws(seed, step, ids)), strict=True):
            assert mine.numpy().dtype == reference.dtype
            assert mine.numpy().tobytes() == reference.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_choices_among_equals_take_the_first(mode: str) -> None:
    ops = TensorFlowBackend()
    words = np.array([[3, -(2**31), 3, 2**31 - 1, -(2**31)], [0, 0, 0, 0, 0]], np.int32)
    values = np.array([[2.0, 5.0, 5.0, -1.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    call = MODES[mode](lambda words, values: (ops.argsort(words), ops.argsort(values), ops.argmax(values)))
    found = call(tf.constant(words), tf.constant(values))
    wanted = np.argsort(words, -1, kind="stable"), np.argsort(values, -1, kind="stable"), values.argmax(-1)
    for mine, reference in zip(found, wanted, strict=True):
        assert mine.dtype == tf.int32
        np.testing.assert_array_equal(mine, reference)


def test_one_trace_serves_all_steps() -> None:
    model, x, y = problem("dense")
    params, traces = tensors(model), []
    reg = DataGrad(2.0, every=2) + SpectReg(schedule, seed=5)

    @tf.function
    def value(step: Any) -> tf.Tensor:
        traces.append(step)
        return gradreg.penalty(lambda x: apply(model.network, params, x), tf.constant(x), y, reg, step=step)

    for step in range(4):
        wanted = gradreg_numpy.penalty(model, x, y, reg, step=step)
        assert float(value(tf.constant(step))) == pytest.approx(wanted, rel=FLOAT64)
    assert len(traces) == 1
    value(0), value(1)
    assert len(traces) == 3  # a Python number is a constant of the trace


def test_a_schedule_may_compute_in_another_dtype() -> None:
    model, x, y = problem("dense")
    params = tensors(model)
    reg = SpectReg(lambda step: 0.125 * (tf.cast(step, tf.float32) + 1), seed=5)
    found = gradreg.penalty(
        lambda x: apply(model.network, params, x), tf.constant(x), y, reg, step=tf.Variable(STEP, dtype=tf.int32)
    )
    wanted = gradreg_numpy.penalty(model, x, y, SpectReg(schedule, seed=5), step=STEP)
    assert found.dtype == tf.float64
    assert float(found) == pytest.approx(wanted, rel=FLOAT64)


def test_terms_that_are_not_due_leave_nothing_behind_and_cost_nothing() -> None:
    model, x, y = problem("dense")
    params, reg = tensors(model), DataGrad(2.0, every=2) + JacReg(0.5)

    @tf.function
    def value(step: tf.Tensor) -> tf.Tensor:
        return gradreg.penalty(lambda x: apply(model.network, params, x), tf.constant(x), y, reg, step=step)

    for step in (1, 2):
        wanted = gradreg_numpy.penalty(model, x, y, reg, step=step)
        assert float(value(tf.constant(step))) == pytest.approx(wanted, rel=FLOAT64)

    def operations(reg: Regularizer) -> list[str]:
        """The operations that run at every step."""

        @tf.function
        def penalty(step: tf.Tensor) -> tf.Tensor:
            return gradreg.penalty(lambda x: apply(model.network, params, x), tf.constant(x), y, reg, step=step)

        graph = penalty.get_concrete_function(tf.TensorSpec((), tf.int32)).graph
        needed, todo = set(), [graph.outputs[0].op]
        while todo:
            operation = todo.pop()
            if operation.name not in needed:
                needed.add(operation.name)
                todo += [each.op for each in operation.inputs]
        return [graph.get_operation_by_name(name).type for name in needed]

    # Three matrix products of the forward pass, and three of the pullback, which `every` puts into the branch.
    assert operations(DataGrad(2.0)).count("MatMul") == 6
    assert operations(DataGrad(2.0, every=2)).count("MatMul") == 3


@pytest.mark.parametrize("kind", ["variable", "keras"])
def test_the_step_may_be_a_variable(kind: str) -> None:
    model, x, _ = problem("dense")
    params = tensors(model)
    step = tf.Variable(3, dtype=tf.int64) if kind == "variable" else keras.optimizers.SGD().iterations
    step.assign(3)
    call = lambda: gradreg.penalty(  # noqa: E731
        lambda x: apply(model.network, params, x), tf.constant(x), None, SpectReg(1.0, every=3), step=step
    )
    wanted = gradreg_numpy.penalty(model, x, None, SpectReg(1.0, every=3), step=3)
    traced = tf.function(call)
    assert float(call()) == pytest.approx(wanted, rel=FLOAT64)
    assert float(traced()) == pytest.approx(wanted, rel=FLOAT64)
    step.assign(4)
    assert float(traced()) == 0.0


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_of_rows_change_nothing(chunk: int) -> None:
    model, x, y = problem("dense")
    params = tensors(model)
    value = gradreg.penalty(
        lambda x: apply(model.network, params, x), tf.constant(x), y, FrobReg(1.0), chunk_size=chunk
    )
    assert float(value) == pytest.approx(float(gradreg_numpy.penalty(model, x, y, FrobReg(1.0))), rel=FLOAT64)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_measures_equal_the_reference(mode: str) -> None:
    model, x, y = problem("dense")
    params = tensors(model)
    found = MODES[mode](lambda x: gradreg.measure(lambda x: apply(model.network, params, x), x, y))(tf.constant(x))
    for mine, reference in zip(found, gradreg_numpy.measure(model, x, y), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-12)  # roundoff of sums of some tens of squares


def test_weights_normalizer_directions_and_sample_ids() -> None:
    model, x, y = problem("dense")
    params = tensors(model)
    call = functools.partial(gradreg.penalty, lambda x: apply(model.network, params, x), tf.constant(x), y)
    weight, ids = np.array([1.0, 0.0, 2.0, 0.5]), np.array([2**40 + 3, 2**32, 5, 2**31])
    v = np.random.default_rng(0).normal(size=(2, 4, 4))
    given: list[tuple[Regularizer, dict[str, Any]]] = [
        (DataGrad(1.0), {"sample_weight": weight}),
        (DataGrad(1.0), {"sample_weight": weight > 0, "normalizer": 7.0}),
        (SpectReg(1.0), {"sample_ids": ids}),
        (JacobianPenalty(1.0, projection=gradreg.direction()), {"directions": v}),
    ]
    for reg, options in given:
        wanted = float(gradreg_numpy.penalty(model, x, y, reg, **options))
        assert float(call(reg, **options)) == pytest.approx(wanted, rel=FLOAT64)
    assert float(call(DataGrad(1.0), sample_weight=np.zeros(4))) == 0.0


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_half_precision_keeps_the_penalty_in_float32(dtype: Any) -> None:
    model, x, y = problem("dense")
    reg = DataGrad(1.0) + SpectReg(1.0)

    def gradient(dtype: Any, scale: float) -> tuple[tf.Tensor, np.ndarray]:
        params = tensors(model, dtype)
        with tf.GradientTape() as tape:
            tape.watch(params["0.weight"])
            value = gradreg.penalty(lambda x: scale * apply(model.network, params, x), tf.constant(x, dtype), y, reg)
        return value, tf.cast(tape.gradient(value, params["0.weight"]), tf.float32).numpy()

    value, found = gradient(dtype, 1.0)
    wanted_value, wanted = gradient(tf.float32, 1.0)
    assert value.dtype == tf.float32
    roundings = 30 * (2.0**-11 if dtype == tf.float16 else 2.0**-8)  # some thirty roundings of half precision
    assert float(value) == pytest.approx(float(wanted_value), rel=roundings)
    assert np.linalg.norm(found - wanted) <= roundings * np.linalg.norm(wanted)
    small, _ = gradient(dtype, 2.0**-12)
    assert float(small) > 0  # its square is below the smallest number of float16


@pytest.mark.parametrize("mode", MODES)
def test_models_with_control_flow_are_converted_as_their_caller_is(mode: str) -> None:
    weight = tf.Variable(np.linspace(-1, 1, 15).reshape(5, 3))

    def model(x: tf.Tensor) -> tf.Tensor:
        z = x @ weight
        if tf.reduce_sum(z) > -1e9:  # needs AutoGraph, or eager mode
            z = tf.tanh(z)
        return z

    x = tf.constant(np.linspace(-1, 1, 20).reshape(4, 5))
    value = MODES[mode](lambda x: gradreg.penalty(model, x, None, FrobReg(1.0)))(x)
    wanted = gradreg.penalty(lambda x: tf.tanh(x @ weight), x, None, FrobReg(1.0))
    assert float(value) == pytest.approx(float(wanted), rel=FLOAT64)


def test_a_variable_as_input() -> None:
    x = tf.Variable(np.linspace(-1, 1, 6).reshape(2, 3))
    with tf.GradientTape() as tape:
        value = gradreg.penalty(lambda x: x**3, x, None, FrobReg(1.0))
    # J is diagonal with 3 x^2, so the penalty is the mean of sum 9 x^4, and its gradient 36 x^3 / 2.
    np.testing.assert_allclose(tape.gradient(value, x), 18 * x.numpy() ** 3, rtol=FLOAT64)


# --- parameters ------------------------------------------------------------------------------------------------------
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


# --- refusals --------------------------------------------------------------------------------------------------------
X = tf.reshape(tf.linspace(-1.0, 1.0, 20), (4, 5))
Y = np.array([0, 1, 2, 1])
WEIGHT = tf.Variable(np.linspace(-1, 1, 15).reshape(5, 3).astype(np.float32))
REG = DataGrad(1.0)


def linear(x: tf.Tensor) -> tf.Tensor:
    return tf.tanh(tf.cast(x, tf.float32) @ WEIGHT)


REFUSED: list[tuple[type, str, dict[str, Any]]] = [
    (InputTypeError, "the input has dtype int32, and only floating-point inputs", {"x": tf.cast(X, tf.int32)}),
    (InputTypeError, "x must be an array of the tensorflow backend, got numpy.ndarray", {"x": X.numpy()}),
    (InputError, r"with at least one sample, got shape \(\)", {"x": tf.constant(1.0)}),
    (InputError, r"with at least one sample, got shape \(0, 5\)", {"x": X[:0]}),
    (InputError, "step must be at least 0, got -1", {"step": tf.constant(-1)}),
    (InputTypeError, "step must be an integer", {"step": 1.5}),
    (InputError, "sample_ids must be 4 integers", {"sample_ids": tf.zeros(4)}),
    (InputError, r"sample_weight must have shape \(4,\), got \(3,\)", {"sample_weight": tf.ones(3)}),
    (InputError, "sample_weight must be at least 0 everywhere", {"sample_weight": -tf.ones(4)}),
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
    (InputError, "at='a': no layer of that name is called", {"reg": DataGrad(1.0, at="a")}),
]


def area(x: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.image.resize(x[:, :, None, None], (3, 1), "area"), (4, 3))


@pytest.mark.parametrize(
    ("kind", "message", "change"), [pytest.param(*each, id=f"{index}-{each[1]}") for index, each in enumerate(REFUSED)]
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
    assert [each.filename for each in warned] == [__file__]


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
    found = MODES[mode](lambda x: gradreg.penalty(model, x, Y, reg))(X)
    wanted = gradreg.penalty(head, dense(X), Y, DataGrad(1.0)) + gradreg.penalty(model, X, Y, SpectReg(1.0))
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)  # float32
    with pytest.raises(InputError, match="at='norms': no layer of that name is called in the forward pass; there are"):
        gradreg.penalty(model, X, Y, DataGrad(1.0, at="norms"))
    with pytest.raises(InputError, match=r"at='\w+': the layer is called more than once"):
        gradreg.penalty(lambda x: model(x) + model(x), X, Y, DataGrad(1.0, at=dense.name))


def test_token_models_are_penalised_at_their_embedding() -> None:
    layers = [keras.layers.Input((3,), dtype="int32"), keras.layers.Embedding(7, 2, name="embedding")]
    model = keras.Sequential([*layers, keras.layers.Flatten(), keras.layers.Dense(3)])
    tokens = tf.constant([[1, 2, 3], [4, 5, 6]])
    kernel = model.layers[-1].kernel.numpy()
    found = gradreg.penalty(model, tokens, None, FrobReg(1.0, at="embedding"))
    assert float(found) == pytest.approx(float((kernel**2).sum()), rel=1e-5)  # float32
