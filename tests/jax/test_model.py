"""Flax and Equinox models, and state by hand."""

import copy
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import gradreg_jax as gradreg
from gradreg_core.errors import BatchNormError, BatchNormWarning, InputError
from gradreg_core.presets import DataGrad, SpectReg, WeightDecay
from gradreg_jax.backend import JaxBackend
from gradreg_jax.model import Stateful

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])


# --- Flax NNX ---------------------------------------------------------------------------------------------------------
class Net(nnx.Module):
    """Every kind of layer with state: batch statistics, and a generator's counter."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.inner = nnx.Linear(5, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: Any) -> Any:
        return self.out(self.drop(jnp.tanh(self.norm(self.inner(x)))))


def state(model: nnx.Module) -> list[Any]:
    """The values of all variables, keys of generators too."""
    leaves = jax.tree.leaves(nnx.as_pure(nnx.state(model)))
    is_key = [jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in leaves]
    return [np.asarray(jax.random.key_data(leaf) if key else leaf) for leaf, key in zip(leaves, is_key, strict=True)]


def same(first: list[Any], second: list[Any]) -> bool:
    return all(np.array_equal(mine, other) for mine, other in zip(first, second, strict=True))


def test_a_call_moves_statistics_and_generators_once() -> None:
    model, other = Net(), Net()
    outputs = nnx.jit(lambda other: other(X))(other)
    ours = nnx.jit(lambda model: gradreg.loss(model, X, Y, DataGrad(0.1), batch_norm="allow")[1].outputs)(model)
    np.testing.assert_allclose(ours, outputs, rtol=1e-4, atol=1e-5)  # float32, two programs
    assert not same(state(model), state(Net()))
    for mine, wanted in zip(state(model), state(other), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-6)


@pytest.mark.slow
def test_loss_and_penalty_see_the_same_dropout_mask() -> None:
    model = Net()
    model.norm.use_running_average = True
    graph, variables = nnx.split(model)
    pure = lambda x: nnx.merge(graph, variables, copy=True)(x)  # noqa: E731
    J = np.einsum("ikic->ikc", jax.jacrev(pure)(X))
    wanted = 0.1 * (J**2).sum((1, 2)).mean()
    _, parts = gradreg.loss(model, X, Y, gradreg.FrobReg(0.1))
    assert float(parts.penalty[0]) == pytest.approx(wanted, rel=1e-5)  # float32
    assert float(gradreg.penalty(model, X, Y, gradreg.FrobReg(0.1))) != pytest.approx(wanted, rel=1e-3)


def test_gradients_equal_those_of_the_functional_form() -> None:
    model = Net()
    model.eval()
    reg = DataGrad(0.5) + WeightDecay(0.1)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def functional(params: Any) -> Any:
        return gradreg.loss(lambda x: nnx.merge(graph, params, rest)(x), X, Y, reg, params=params)[0]

    def object_style(model: nnx.Module) -> Any:
        return gradreg.loss(model, X, Y, reg)[0]

    wanted = jax.tree.leaves(jax.jit(jax.grad(functional))(params))
    gradients = jax.tree.leaves(nnx.jit(nnx.grad(object_style))(model))
    for mine, functional_one in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(mine, functional_one, rtol=1e-4, atol=1e-6)  # float32, two programs


def test_the_functional_style_of_training() -> None:
    graph, params, rest = nnx.split(Net(), nnx.Param, ...)

    @jax.jit
    def gradients(params: Any, rest: Any) -> Any:
        def objective(params: Any) -> Any:
            model = nnx.merge(graph, params, rest, copy=True)
            total, _ = gradreg.loss(model, X, Y, DataGrad(0.1), batch_norm="allow")
            return total, nnx.state(model, nnx.Not(nnx.Param))

        return jax.value_and_grad(objective, has_aux=True)(params)

    (total, moved), slope = gradients(params, rest)
    assert np.isfinite(total)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    model = Net()
    model(X)
    ours = jax.tree.leaves(nnx.filter_state(moved, nnx.BatchStat))
    for mine, wanted in zip(ours, jax.tree.leaves(nnx.state(model, nnx.BatchStat)), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-7)  # float32


@pytest.mark.slow
def test_batch_normalisation_is_noticed() -> None:
    with pytest.warns(BatchNormWarning, match=r"loss: norm \(BatchNorm\) is in training mode") as caught:
        gradreg.loss(Net(), X, Y, SpectReg(0.1))
    assert caught[0].filename == __file__
    with pytest.raises(BatchNormError, match="norm"):
        gradreg.loss(Net(), X, Y, SpectReg(0.1), batch_norm="error")
    model = Net()
    model.eval()
    gradreg.loss(model, X, Y, SpectReg(0.1), batch_norm="error")


@pytest.mark.slow
def test_check_leaves_a_module_as_it_was() -> None:
    model = Net()
    before = state(model)
    report = gradreg.check(model, X, Y, DataGrad(0.1, fraction=0.5))
    assert report.ok, report
    assert [finding.level for finding in report.findings] == ["warning"]
    assert "BatchNorm" in report.findings[0].problem
    assert same(state(model), before)


class Trainer:
    """A module behind an attribute."""

    def __init__(self, net: nnx.Module) -> None:
        self.net = net

    def forward(self, x: Any) -> Any:
        return self.net(x)


WAYS = {
    "closure": lambda model: lambda x: model(x),
    "partial": lambda model: partial(lambda net, x: net(x), model),
    "method": lambda model: Trainer(model).forward,
    "attribute": lambda model: (lambda trainer: lambda x: trainer.net(x))(Trainer(model)),
    "part": lambda model: (lambda parts: lambda x: parts["out"](model.drop(jnp.tanh(model.norm(model.inner(x))))))(
        {"out": model.out}
    ),
}


@pytest.mark.slow
@pytest.mark.sample(7)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "reg", [DataGrad(0.1), SpectReg(0.1, side="input", projections=2), SpectReg(0.1, side="input", method="difference")]
)
def test_a_module_behind_a_function_moves_its_state_once(way: str, reg: Any) -> None:
    model, other = Net(), Net()
    total, _ = gradreg.loss(WAYS[way](model), X, Y, reg, batch_norm="allow")
    wanted, _ = gradreg.loss(other, X, Y, reg, batch_norm="allow")
    assert float(total) == pytest.approx(float(wanted), rel=1e-6)
    assert same(state(model), state(other))
    assert not same(state(model), state(Net()))
    model(X)  # nothing traced was left behind
    with JaxBackend().repeatable(WAYS[way](model)):
        before = state(model)
        gradreg.loss(WAYS[way](model), X, Y, reg, batch_norm="allow")
    assert same(state(model), before)


def test_a_module_from_outside_of_a_transformation_is_refused_as_it_is() -> None:
    model = Net()
    for call in (model, lambda x: model(x)):
        with pytest.raises(InputError, match=r"changes its own state.*as nnx.jit and nnx.grad do"):
            jax.jit(lambda x, call=call: gradreg.loss(call, x, Y, SpectReg(0.1), batch_norm="allow")[0])(X)
        assert same(state(model), state(Net()))


# --- state by hand ----------------------------------------------------------------------------------------------------
def counted(x: Any, calls: Any) -> Any:
    return jnp.tanh(x @ jnp.ones((5, 3))) * (1 + calls), calls + 1


def test_stateful_threads_its_state_through_every_call() -> None:
    @jax.jit
    def calls(x: Any, start: Any) -> list[Any]:
        model, seen = Stateful(counted, start), []
        gradreg.loss(model, x, Y, DataGrad(0.1))
        seen.append(model.state)
        gradreg.loss(model, x, Y, DataGrad(0.1, fraction=0.5))
        seen.append(model.state)
        with JaxBackend().repeatable(model):
            gradreg.loss(model, x, Y, DataGrad(0.1, fraction=0.5))
        seen.append(model.state)
        return seen

    assert [int(count) for count in calls(X, 0)] == [1, 2, 2]


def test_stateful_under_jit_and_grad() -> None:
    @jax.jit
    def slope(scale: Any, calls: Any) -> Any:
        def objective(scale: Any) -> Any:
            model = Stateful(lambda x, calls: (jnp.tanh(scale * x @ jnp.ones((5, 3))), calls + 1), calls)
            return gradreg.loss(model, X, Y, SpectReg(0.1))[0], model.state

        return jax.grad(objective, has_aux=True)(scale)

    derivative, calls = slope(0.3, 7)
    plain = lambda scale: gradreg.loss(lambda x: jnp.tanh(scale * x @ jnp.ones((5, 3))), X, Y, SpectReg(0.1))[0]  # noqa: E731
    assert int(calls) == 8
    assert float(derivative) == pytest.approx(float(jax.grad(plain)(0.3)), rel=1e-5)  # float32


# --- Linen and Equinox ------------------------------------------------------------------------------------------------
def test_a_bound_linen_module_is_a_model() -> None:
    net = linen.Dense(3)
    variables = net.init(jax.random.key(0), X)
    penalty = gradreg.penalty(net.bind(variables), X, None, gradreg.FrobReg(1.0))
    assert float(penalty) == pytest.approx(float((variables["params"]["kernel"] ** 2).sum()), rel=1e-5)  # float32


@pytest.mark.slow
def test_equinox_batch_norm_goes_through_stateful() -> None:
    class Normed(eqx.Module):
        norm: eqx.nn.BatchNorm
        out: eqx.nn.Linear

        def __call__(self, x: Any, state: Any) -> Any:
            x, state = self.norm(x, state)
            return self.out(jnp.tanh(x)), state

    key = jax.random.key(0)
    make = lambda key: Normed(eqx.nn.BatchNorm(5, "batch", mode="batch"), eqx.nn.Linear(5, 3, key=key))  # noqa: E731
    net, first = eqx.nn.make_with_state(make)(key)
    call = jax.vmap(net, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    with pytest.raises(BatchNormError, match=r"a layer \(BatchNorm\) is in training mode"):
        gradreg.loss(Stateful(call, copy.copy(first)), X, Y, SpectReg(0.1), batch_norm="error")
    model = Stateful(call, copy.copy(first))
    _, parts = gradreg.loss(model, X, Y, SpectReg(0.1), batch_norm="allow")
    outputs, moved = call(X, first)
    np.testing.assert_allclose(parts.outputs, outputs, rtol=1e-5, atol=1e-6)  # float32
    for mine, wanted in zip(jax.tree.leaves(model.state), jax.tree.leaves(moved), strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-6)  # float32


def test_weight_decay_finds_the_parameters_of_modules() -> None:
    class Batched(eqx.Module):
        layer: eqx.nn.Linear

        def __call__(self, x: Any) -> Any:
            return jax.vmap(self.layer)(x)

    model = Batched(eqx.nn.Linear(5, 3, key=jax.random.key(0)))
    wanted = 0.5 * float((model.layer.weight**2).sum())
    assert float(gradreg.penalty(model, X, None, WeightDecay(1.0))) == pytest.approx(wanted, rel=1e-5)  # float32
    net = nnx.Linear(5, 3, rngs=nnx.Rngs(0))
    wanted = 0.5 * float((net.kernel[...] ** 2).sum())
    assert float(gradreg.penalty(net, X, None, WeightDecay(1.0))) == pytest.approx(wanted, rel=1e-5)  # float32
