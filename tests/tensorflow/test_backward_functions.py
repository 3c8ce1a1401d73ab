"""Backward functions of tf.custom_gradient with NumPy inside, and tf.recompute_grad."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import gradreg_tensorflow as gradreg
from double_backpropagation import Function, norm_of_difference, normal
from gradreg_core.errors import DoubleBackwardError

X = tf.constant(normal(4, 3))
FIRST, LAST = tf.Variable(normal(3, 5, seed=1)), tf.Variable(normal(5, 2, seed=2))
REG, INPUT_SIDE = gradreg.FrobReg(1.0), gradreg.SpectReg(1.0, side="input")


def with_backward(slope: Callable[[tf.Tensor], tf.Tensor]) -> Function:
    """A network with tanh, whose backward function has the factor slope(h)."""

    @tf.custom_gradient
    def tanh(h: tf.Tensor) -> tuple[tf.Tensor, Function]:
        return tf.tanh(h), lambda w: w * tf.ensure_shape(slope(h), h.shape)

    return lambda x: tanh(x @ FIRST) @ LAST


def in_numpy(h: np.ndarray) -> np.ndarray:
    return 1 - np.tanh(h) ** 2


LOSING: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "numpy_function": lambda h: tf.numpy_function(in_numpy, [h], tf.float64),
    "py_func": lambda h: tf.compat.v1.py_func(in_numpy, [h], tf.float64),
    "numpy()": lambda h: tf.constant(in_numpy(h.numpy())),
}


def gradient(model: Function, reg: Any = REG) -> tf.Tensor:
    with tf.GradientTape() as tape:
        value = gradreg.penalty(model, X, None, reg)
    return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(value, [FIRST, LAST])], 0)


def by_hand() -> tf.Tensor:
    """The gradient of the mean squared Frobenius norm, from the Jacobian's formula."""
    with tf.GradientTape() as tape:
        jacobian = tf.einsum("ij,bj,jk->bik", FIRST, 1 - tf.tanh(X @ FIRST) ** 2, LAST)
        value = tf.reduce_mean(tf.reduce_sum(jacobian**2, [1, 2]))
    return tf.concat([tf.reshape(g, [-1]) for g in tape.gradient(value, [FIRST, LAST])], 0)


@pytest.mark.parametrize("name", LOSING)
@pytest.mark.parametrize("reg", [REG, INPUT_SIDE], ids=["outputs", "input"])
def test_numpy_in_a_backward_function_is_refused(name: str, reg: Any) -> None:
    with pytest.raises(DoubleBackwardError, match=r"calls (tf\.numpy_function|\.numpy\(\)): .*a wrong gradient"):
        gradient(with_backward(LOSING[name]), reg)


@pytest.mark.parametrize("traced", ["the step", "the model", "the value", "before"])
def test_numpy_in_a_backward_function_is_refused_in_graphs(traced: str) -> None:
    model = with_backward(LOSING["numpy_function"])
    compiled = tf.function(model)
    concrete = compiled.get_concrete_function(tf.TensorSpec(X.shape, X.dtype)) if traced == "before" else None
    calls: dict[str, Callable[[], Any]] = {
        "the step": tf.function(lambda: gradient(model)),
        "the model": lambda: gradient(compiled),
        "the value": tf.function(lambda: gradreg.penalty(model, X, None, REG)),
        "before": lambda: gradient(concrete),  # type: ignore[arg-type]
    }
    with pytest.raises(DoubleBackwardError, match=r"calls tf\.numpy_function"):
        calls[traced]()


def test_what_loses_nothing_is_allowed() -> None:
    model = with_backward(LOSING["numpy_function"])
    wanted = gradreg.penalty(with_backward(lambda h: 1 - tf.tanh(h) ** 2), X, None, REG)
    tf.debugging.assert_near(gradreg.penalty(model, X, None, REG), wanted, rtol=1e-12)  # the value alone is right
    with tf.GradientTape():
        gradreg.measure(model, X)  # has no gradient
        gradreg.loss(tf.function(model), X, [0, 1, 0, 1], gradreg.WeightDecay(0.1), params=[FIRST, LAST])
    data = lambda x: model(tf.numpy_function(np.copy, [tf.ones_like(x)], x.dtype)) + x @ FIRST @ LAST  # noqa: E731
    gradient(data)  # forward, where plain differentiation takes it for a constant too


def test_the_remedy_works() -> None:
    assert norm_of_difference(gradient(with_backward(lambda h: 1 - tf.tanh(h) ** 2)), by_hand()) < 1e-12
    python = with_backward(lambda h: tf.py_function(lambda h: 1 - tf.tanh(h) ** 2, [h], tf.float64))
    assert norm_of_difference(gradient(python), by_hand()) < 1e-12  # it has one derivative, which is enough here
    with pytest.raises(DoubleBackwardError, match=r"tf\.py_function, which has one derivative and here needs two"):
        gradient(python, INPUT_SIDE)


@pytest.mark.slow
def test_check_sees_numpy_that_the_calls_cannot_see() -> None:
    report = gradreg.check(with_backward(lambda h: tf.constant(in_numpy(h))), X, None, REG)
    assert not report.ok


@pytest.mark.parametrize("compiled", [False, True])
def test_recomputing_is_left_out(compiled: bool) -> None:
    inner = tf.recompute_grad(lambda h: tf.tanh(h @ FIRST))
    call = lambda: gradient(lambda x: inner(x) @ LAST)  # noqa: E731
    assert norm_of_difference((tf.function(call) if compiled else call)(), by_hand()) < 1e-12
