"""TensorFlow against the NumPy reference: eager, in tf.function and under XLA."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import gradreg_numpy
import gradreg_tensorflow as gradreg
from cases import FLOAT64, GENERAL, NETWORKS, PRESETS, named, perturbation, problem, relative
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import (
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    InputFisher,
    JacReg,
    SpectralNormReg,
    SpectReg,
)
from gradreg_core.projections import orthonormal, top_k
from gradreg_core.spec import JacobianPenalty, Regularizer, Sum
from gradreg_tensorflow.networks import apply
from tensorflow_models import MODES, native, schedule, tensors

STEP = 2
SMALL = Network((3,), (Dense(4), Activation("tanh"), Dense(4)))
"""Tracing and compiling take long per operation, and four outputs and one hidden layer are enough for every term."""


def traceable(reg: Regularizer) -> Regularizer:
    return Sum(tuple(replace(term, weight=schedule) if callable(term.weight) else term for term in reg.terms))


FEW = Sum((DataGrad(2.0), SpectReg(0.3, seed=7), JacReg(0.5)))
WHOLE = [reg for reg in GENERAL if getattr(reg.terms[0], "fraction", 1) == 1]
PARTS = [reg for reg in GENERAL if getattr(reg.terms[0], "fraction", 1) < 1]
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
    ("graph", "small", HALF),
    ("graph", "critic", CRITICS),
    ("graph", "small", PARTS[1]),
    ("xla", "small", SOME),
    ("xla", "small", PARTS[0]),
    ("xla", "conv", DataGrad(2.0)),
]
EAGER = [*(("dense", reg) for reg in PRESETS + GENERAL), *((name, FEW) for name in NETWORKS if name != "dense")]


@functools.cache
def example(name: str) -> tuple[gradreg_numpy.Model, np.ndarray, np.ndarray]:
    """A reference model, its inputs and labels."""
    if name != "small":
        return problem(name)
    rng = np.random.default_rng(0)
    model = gradreg_numpy.Model(SMALL, gradreg_numpy.initialize(SMALL, 0))
    return model, rng.normal(size=(4, 3)), rng.integers(0, 4, 4)


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
    total, penalties, gradients = call(tf.constant(x, dtype), tf.constant(STEP), [params[path] for path in paths])
    arrays = [gradient.numpy().astype(np.float64) for gradient in gradients]
    return float(total), list(map(float, penalties)), dict(zip(["x", *paths], arrays, strict=True))


@functools.cache
def oracle(name: str, reg: Regularizer) -> tuple[float, list[float], dict[str, np.ndarray]]:
    model, x, y = example(name)
    weights, inputs = gradreg_numpy.gradient(model, x, y, reg, step=STEP, of="total")
    total = float(gradreg_numpy.loss(model, x, y, reg, step=STEP)[0])
    return total, gradreg_numpy.penalty_terms(model, x, y, reg, step=STEP), weights | {"x": inputs}


def compare(name: str, reg: Regularizer, mode: str) -> None:
    total, penalties, gradients = evaluated(*example(name), reg, mode)
    wanted_total, wanted_penalties, wanted = oracle(name, reg)
    np.testing.assert_allclose(penalties, wanted_penalties, rtol=FLOAT64)
    assert abs(total - wanted_total) <= FLOAT64 * abs(wanted_total)
    assert relative(gradients, wanted) <= FLOAT64


@pytest.mark.sample(16)
@pytest.mark.parametrize(
    ("name", "reg"),
    [pytest.param(name, case.values[0], id=f"{name}-{case.id}") for name, reg in EAGER for case in named([reg])],
)
def test_eager_equals_the_reference(name: str, reg: Regularizer) -> None:
    compare(name, reg, "eager")


@pytest.mark.slow
@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("mode", "name", "reg"), [pytest.param(*case, id=f"{case[0]}-{case[1]}-{len(case[2].terms)}") for case in TRACED]
)
def test_traced_with_a_traced_step_equals_the_reference(mode: str, name: str, reg: Regularizer) -> None:
    compare(name, reg, mode)


@pytest.mark.slow
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
    _, _, gradients = evaluated(model, x, y, reg, mode, tf.float32)
    gradients.pop("x")
    # A right computation rounds at each of some ten layers as much as its inputs do once; wrong ones are off by 1e4 P.
    assert relative(gradients, wanted) <= 8 * moved


def test_a_schedule_may_compute_in_another_dtype() -> None:
    model, x, y = problem("dense")
    reg = SpectReg(lambda step: 0.125 * (tf.cast(step, tf.float32) + 1), seed=5)
    value = gradreg.penalty(native(model), tf.constant(x), y, reg, step=tf.Variable(STEP, dtype=tf.int32))
    wanted = gradreg_numpy.penalty(model, x, y, SpectReg(schedule, seed=5), step=STEP)
    assert value.dtype == tf.float64
    assert float(value) == pytest.approx(wanted, rel=FLOAT64)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_chunks_of_rows_change_nothing(chunk: int) -> None:
    model, x, y = problem("dense")
    value = gradreg.penalty(native(model), tf.constant(x), y, FrobReg(1.0), chunk_size=chunk)
    assert float(value) == pytest.approx(float(gradreg_numpy.penalty(model, x, y, FrobReg(1.0))), rel=FLOAT64)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_measures_equal_the_reference(mode: str) -> None:
    model, x, y = problem("dense")
    measures = MODES[mode](lambda x: gradreg.measure(native(model), x, y))(tf.constant(x))
    for mine, reference in zip(measures, gradreg_numpy.measure(model, x, y), strict=True):
        np.testing.assert_allclose(mine, reference, rtol=1e-12)  # roundoff of sums of some tens of squares


def test_weights_normalizer_directions_and_sample_ids() -> None:
    model, x, y = problem("dense")
    call = functools.partial(gradreg.penalty, native(model), tf.constant(x), y)
    weight, ids = np.array([1.0, 0.0, 2.0, 0.5]), np.array([2**31 - 1, -(2**31), 5, 7])
    v = np.random.default_rng(0).normal(size=(2, 4, 4))
    cases: list[tuple[Regularizer, dict[str, Any]]] = [
        (DataGrad(1.0), {"sample_weight": weight}),
        (DataGrad(1.0), {"sample_weight": weight > 0, "normalizer": 7.0}),
        (SpectReg(1.0), {"sample_ids": ids}),
        (JacobianPenalty(1.0, projection=gradreg.direction()), {"directions": v}),
    ]
    for reg, options in cases:
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

    value, slope = gradient(dtype, 1.0)
    wanted_value, wanted = gradient(tf.float32, 1.0)
    assert value.dtype == tf.float32
    roundings = 30 * (2.0**-11 if dtype == tf.float16 else 2.0**-8)  # some thirty roundings of half precision
    assert float(value) == pytest.approx(float(wanted_value), rel=roundings)
    assert np.linalg.norm(slope - wanted) <= roundings * np.linalg.norm(wanted)
    small, _ = gradient(dtype, 2.0**-12)
    assert float(small) > 0  # its square is below the smallest number of float16
