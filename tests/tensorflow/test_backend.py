"""TensorFlow's primitives: draws, choices among equals, traces, steps, AutoGraph."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import gradreg_numpy
import gradreg_tensorflow as gradreg
from cases import FLOAT64, problem
from gradreg_core.presets import DataGrad, FrobReg, JacReg, SpectReg
from gradreg_core.random import Draws
from gradreg_core.spec import Regularizer
from gradreg_numpy.draws import draws as reference_draws
from gradreg_tensorflow.backend import TensorFlowBackend
from tensorflow_models import MODES, native, schedule


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
    steps = [step, tf.constant(step), tf.Variable(step, dtype=tf.int64)] if mode == "eager" else [tf.constant(step)]
    for given in steps:
        for mine, reference in zip(call(tf.constant(ids), given), drawn(reference_draws(seed, step, ids)), strict=True):
            assert mine.numpy().dtype == reference.dtype
            assert mine.numpy().tobytes() == reference.tobytes()


@pytest.mark.parametrize("mode", MODES)
def test_choices_among_equals_take_the_first(mode: str) -> None:
    ops = TensorFlowBackend()
    words = np.array([[3, -(2**31), 3, 2**31 - 1, -(2**31)], [0, 0, 0, 0, 0]], np.int32)
    values = np.array([[2.0, 5.0, 5.0, -1.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    call = MODES[mode](lambda words, values: (ops.argsort(words), ops.argsort(values), ops.argmax(values)))
    wanted = np.argsort(words, -1, kind="stable"), np.argsort(values, -1, kind="stable"), values.argmax(-1)
    for mine, reference in zip(call(tf.constant(words), tf.constant(values)), wanted, strict=True):
        assert mine.dtype == tf.int32
        np.testing.assert_array_equal(mine, reference)


def test_one_trace_serves_all_steps() -> None:
    model, x, y = problem("dense")
    function, traces = native(model), []
    reg = DataGrad(2.0, every=2) + SpectReg(schedule, seed=5)

    @tf.function
    def value(step: Any) -> tf.Tensor:
        traces.append(step)
        return gradreg.penalty(function, tf.constant(x), y, reg, step=step)

    for step in range(4):
        wanted = gradreg_numpy.penalty(model, x, y, reg, step=step)
        assert float(value(tf.constant(step))) == pytest.approx(wanted, rel=FLOAT64)
    assert len(traces) == 1
    value(0), value(1)
    assert len(traces) == 3  # a Python number is a constant of the trace


def test_terms_that_are_not_due_leave_nothing_behind_and_cost_nothing() -> None:
    model, x, y = problem("dense")
    function = native(model)

    def penalty(reg: Regularizer) -> Any:
        return tf.function(lambda step: gradreg.penalty(function, tf.constant(x), y, reg, step=step))

    reg = DataGrad(2.0, every=2) + JacReg(0.5)
    value = penalty(reg)
    for step in (1, 2):
        wanted = gradreg_numpy.penalty(model, x, y, reg, step=step)
        assert float(value(tf.constant(step))) == pytest.approx(wanted, rel=FLOAT64)

    def operations(reg: Regularizer) -> list[str]:
        """The operations that run at every step."""
        graph = penalty(reg).get_concrete_function(tf.TensorSpec((), tf.int32)).graph
        needed, todo = set(), [graph.outputs[0].op]
        while todo:
            operation = todo.pop()
            if operation.name not in needed:
                needed.add(operation.name)
                todo += [tensor.op for tensor in operation.inputs]
        return [graph.get_operation_by_name(name).type for name in needed]

    # Three matrix products of the forward pass, and three of the pullback, which `every` puts into the branch.
    assert operations(DataGrad(2.0)).count("MatMul") == 6
    assert operations(DataGrad(2.0, every=2)).count("MatMul") == 3


@pytest.mark.parametrize("kind", ["variable", "keras"])
def test_the_step_may_be_a_variable(kind: str) -> None:
    model, x, _ = problem("dense")
    step = tf.Variable(3, dtype=tf.int64) if kind == "variable" else keras.optimizers.SGD().iterations
    step.assign(3)
    function, reg = native(model), SpectReg(1.0, every=3)
    call = lambda: gradreg.penalty(function, tf.constant(x), None, reg, step=step)  # noqa: E731
    wanted = gradreg_numpy.penalty(model, x, None, reg, step=3)
    traced = tf.function(call)
    assert float(call()) == pytest.approx(wanted, rel=FLOAT64)
    assert float(traced()) == pytest.approx(wanted, rel=FLOAT64)
    step.assign(4)
    assert float(traced()) == 0.0


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
