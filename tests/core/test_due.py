"""The regularizer of one step: `reg.due(step)`, a static argument of compiled training steps."""

from functools import partial
from typing import Any

import numpy as np
import pytest

import gradreg_numpy
from cases import problem
from gradreg_core.errors import SpecError
from gradreg_core.presets import ConfidencePenalty, DataGrad, LayerwiseReg, SpectReg, WeightDecay

REG = DataGrad(0.5, every=2) + SpectReg(lambda step: (step + 1) * (step + 2) % 7, every=3) + ConfidencePenalty(0.1)
STEPS = range(7)


def test_an_example() -> None:
    reg = DataGrad(0.5, every=2) + WeightDecay(0.1)
    assert reg.due(3) == DataGrad(0.0) + WeightDecay(0.1)
    assert reg.due(4) == DataGrad(1.0) + WeightDecay(0.1)
    assert DataGrad(0.5).lazy(4).due(np.int64(8)) == DataGrad(2.0)
    layerwise = LayerwiseReg(1.0, layers=("a", "b"), every=2)
    assert [term.weight for term in layerwise.due(1).terms] == [0.0, 0.0, 0.0]
    assert [term.weight for term in layerwise.due(0).terms] == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("step", STEPS)
def test_it_has_the_penalties_of_the_step(step: int) -> None:
    model, x, y = problem("dense")
    value = gradreg_numpy.penalty(model, x, y, REG.due(step), step=step)
    assert value == pytest.approx(gradreg_numpy.penalty(model, x, y, REG, step=step), rel=1e-14)  # the weight's order


def test_equal_sets_of_due_terms_are_one_object() -> None:
    assert len({id(REG.due(step)) for step in range(24)}) == 4
    assert REG.due(1) is REG.due(5)


@pytest.mark.parametrize("step", [-1, 1.5, True, "3", None])
def test_it_wants_a_step(step: Any) -> None:
    with pytest.raises(SpecError, match=r"due: step must be an integer of at least 0, got"):
        REG.due(step)


def test_jax_compiles_one_program_per_set_of_due_terms() -> None:
    jax = pytest.importorskip("jax")
    import gradreg_jax

    weights, x, y = (
        np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3),
        np.eye(4, dtype=np.float32),
        np.arange(4) % 3,
    )

    @partial(jax.jit, static_argnames="reg")
    def value(weights: Any, reg: Any, step: Any) -> Any:
        return gradreg_jax.loss(lambda x: jax.numpy.tanh(x @ weights), x, y, reg, step=step)[0]

    for step in STEPS:
        wanted = gradreg_jax.loss(lambda x: jax.numpy.tanh(x @ weights), x, y, REG, step=step)[0]
        np.testing.assert_allclose(value(weights, REG.due(step), step), wanted, rtol=1e-5)  # float32, in another order
    assert value._cache_size() == 4
    with pytest.raises(SpecError, match=r"got .*Trace"):
        jax.jit(lambda step: REG.due(step).terms[0].weight)(0)


def test_tensorflow_traces_one_function_per_set_of_due_terms() -> None:
    tf = pytest.importorskip("tensorflow")
    import gradreg_tensorflow

    weights, x = tf.reshape(tf.linspace(-1.0, 1.0, 12), (4, 3)), tf.eye(4)
    y = tf.constant([0, 1, 2, 0])

    @tf.function
    def value(reg: Any, step: Any) -> Any:
        return gradreg_tensorflow.loss(lambda x: tf.tanh(x @ weights), x, y, reg, step=step)[0]

    for step in STEPS:
        wanted = gradreg_tensorflow.loss(lambda x: tf.tanh(x @ weights), x, y, REG, step=step)[0]
        np.testing.assert_allclose(value(REG.due(step), tf.constant(step)), wanted, rtol=1e-5)  # float32
    assert value.experimental_get_tracing_count() == 4
