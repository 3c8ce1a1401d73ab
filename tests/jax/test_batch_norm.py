"""Batch normalisation in training mode is noticed however it is called."""

import copy
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import gradreg_jax as gradreg
from gradreg_core.errors import BatchNormError, BatchNormWarning
from gradreg_core.presets import SpectReg
from gradreg_jax.model import Stateful

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x: Any, training: bool) -> Any:
        return linen.Dense(3)(jnp.tanh(linen.BatchNorm(use_running_average=not training, name="norm")(x)))


class Nnx(nnx.Module):
    def __init__(self, training: bool) -> None:
        self.norm = nnx.BatchNorm(5, use_running_average=not training, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(5, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: Any) -> Any:
        return self.out(jnp.tanh(self.norm(x)))


def linen_stateful(training: bool) -> Any:
    net = Linen()
    variables = net.init(jax.random.key(0), X, True)

    def call(x: Any, state: Any) -> Any:
        return net.apply({**variables, **state}, x, training, mutable=["batch_stats"])

    return Stateful(call, {"batch_stats": variables["batch_stats"]})


def linen_function(training: bool) -> Any:
    net = Linen()
    variables = net.init(jax.random.key(0), X, True)
    return lambda x: net.apply(variables, x, training, mutable=["batch_stats"])[0]


def merged(training: bool) -> Any:
    graph, state = nnx.split(Nnx(training))
    return lambda x: nnx.merge(graph, state, copy=True)(x)


def behind_a_function(training: bool) -> Any:
    model = Nnx(training)
    return lambda x: model(x)


def equinox_stateful(training: bool) -> Any:
    net, state = eqx.nn.make_with_state(lambda: eqx.nn.BatchNorm(5, "batch", mode="ema"))()
    net = eqx.nn.inference_mode(net, not training)
    call = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    return Stateful(lambda x, state: call(x, state), copy.copy(state))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [linen_stateful, linen_function, merged, behind_a_function, equinox_stateful],
    ids=lambda make: make.__name__,
)
def test_it_is_noticed(make: Callable[[bool], Any]) -> None:
    with pytest.raises(BatchNormError, match=r"penalty: .* \(BatchNorm\) is in training mode"):
        gradreg.penalty(make(True), X, None, SpectReg(1.0), batch_norm="error")
    with pytest.warns(BatchNormWarning, match="couples the samples") as caught:
        gradreg.penalty(make(True), X, None, SpectReg(1.0))
    assert [warning.filename for warning in caught] == [__file__]
    assert gradreg.penalty(make(False), X, None, SpectReg(1.0), batch_norm="error") > 0


def test_it_has_its_name_where_it_has_one() -> None:
    for model in (linen_function(True), Nnx(True)):
        with pytest.raises(BatchNormError, match=r"penalty: norm \(BatchNorm\)"):
            gradreg.penalty(model, X, None, SpectReg(1.0), batch_norm="error")


def test_other_calls_of_the_layers_are_left_alone() -> None:
    gradreg.penalty(linen_function(False), X, None, SpectReg(1.0), batch_norm="error")
    assert linen_function(True)(X).shape == (6, 3)
    assert Nnx(True)(X).shape == (6, 3)
