"""Models as people have them in JAX: several inputs, masks, selected outputs; against double backward by hand."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import gradreg_jax as gradreg
from gradreg_core.presets import FrobReg, SpectReg
from gradreg_jax.model import Stateful
from jax_cases import compiled

RNG = np.random.default_rng(0)
RIGHT = 1e-11
"""Float64, a few thousand operations."""
FLOAT = {"param_dtype": jnp.float64}
Y = np.array([0, 1, 2, 1])


def squared(function: Callable[..., Any], *x: Any) -> Any:
    """The mean squared Frobenius norm of each sample's Jacobian with respect to the first argument."""

    def alone(*sample: Any) -> Any:
        return function(*(part[None] for part in sample))[0]

    return (jax.vmap(jax.jacrev(alone))(*x) ** 2).sum() / len(x[0])


def assert_same(ours: Callable[[Any], Any], by_hand: Callable[[Any], Any], weights: Any, transform: Any) -> None:
    """Value and gradient of both are equal."""
    value, slopes = transform(jax.value_and_grad(ours))(weights)
    right, right_slopes = compiled(jax.value_and_grad(by_hand))(weights)
    np.testing.assert_allclose(value, right, rtol=RIGHT)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(right_slopes))
    for mine, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(right_slopes), strict=True):
        np.testing.assert_allclose(mine, other, rtol=RIGHT, atol=RIGHT * largest)


def plain(step: Any) -> Any:
    return step


@pytest.fixture(params=[plain, compiled], ids=["eager", "compiled"])
def transform(request: pytest.FixtureRequest, x64: None) -> Any:
    return request.param


# --- inputs -----------------------------------------------------------------------------------------------------------
IMAGES, CONDITION = RNG.normal(size=(4, 5)), RNG.normal(size=(4, 2))
SHARED = {"image": RNG.normal(size=(5, 3)), "condition": RNG.normal(size=(2, 3))}


def conditioned(weights: Any, image: Any, condition: Any) -> Any:
    return jnp.tanh(image @ weights["image"]) * jnp.tanh(condition @ weights["condition"])


@pytest.mark.slow
def test_a_dictionary(transform: Any) -> None:
    def ours(weights: Any) -> Any:
        x = {"image": IMAGES, "condition": CONDITION, "id": np.arange(4)}
        return gradreg.penalty(lambda x: conditioned(weights, x["image"], x["condition"]), x, None, FrobReg(1.0))

    def by_hand(weights: Any) -> Any:
        first = squared(lambda image, condition: conditioned(weights, image, condition), IMAGES, CONDITION)
        return first + squared(lambda condition, image: conditioned(weights, image, condition), CONDITION, IMAGES)

    assert_same(ours, by_hand, SHARED, transform)


def test_several_arguments_of_which_one_counts(transform: Any) -> None:
    x = gradreg.Inputs(IMAGES, condition=CONDITION, wrt="condition")

    def ours(weights: Any) -> Any:
        def model(image: Any, condition: Any) -> Any:
            return {"scores": conditioned(weights, image, condition), "mean": image.mean(1)}

        return gradreg.penalty(model, x, None, FrobReg(1.0), outputs="scores")

    def by_hand(weights: Any) -> Any:
        return squared(lambda condition, image: conditioned(weights, image, condition), CONDITION, IMAGES)

    assert_same(ours, by_hand, SHARED, transform)


@pytest.mark.slow
def test_inputs_pass_through_transformations(x64: None) -> None:
    x = gradreg.Inputs(IMAGES, "tanh", True, wrt=["0"], condition=CONDITION, mask=None)

    def model(image: Any, name: str, doubled: bool, condition: Any, mask: Any) -> Any:
        assert mask is None
        assert doubled is True
        return getattr(jnp, name)(conditioned(SHARED, image, condition)) * 2

    def value(x: Any) -> Any:
        return gradreg.penalty(model, x, None, FrobReg(1.0))

    wanted = value(x)
    np.testing.assert_allclose(jax.jit(value)(x), wanted, rtol=RIGHT)
    np.testing.assert_allclose(jax.vmap(value)(jax.tree.map(lambda a: jnp.stack([a, a]), x)), [wanted] * 2, rtol=RIGHT)
    assert repr(jax.tree.map(lambda array: array, x)) == repr(x)


def test_the_state_of_a_function_of_several_arguments(x64: None) -> None:
    model = Stateful(lambda image, calls, condition: (conditioned(SHARED, image, condition), calls + 1), 0)
    gradreg.penalty(model, gradreg.Inputs(IMAGES, condition=CONDITION), None, SpectReg(1.0))
    assert model.state == 1


# --- sequences and masks ----------------------------------------------------------------------------------------------
SEQUENCES = RNG.normal(size=(4, 5, 6))
MASK = np.arange(5) < np.array([[5], [3], [4], [2]])


def attend(query: Any, key: Any, value: Any, mask: Any, **_: Any) -> Any:
    """Attention in double precision throughout, which Flax's own is not."""
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(jnp.where(mask, scores, -1e30)), value)


class Attention(nnx.Module):
    """A transformer block with a padding mask, and a classifier on the mean of what is not padding."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.norm = nnx.LayerNorm(6, rngs=rngs, **FLOAT)
        self.attention = nnx.MultiHeadAttention(2, 6, decode=False, attention_fn=attend, rngs=rngs, **FLOAT)
        self.up, self.down = nnx.Linear(6, 8, rngs=rngs, **FLOAT), nnx.Linear(8, 6, rngs=rngs, **FLOAT)
        self.out = nnx.Linear(6, 3, rngs=rngs, **FLOAT)

    def __call__(self, x: Any, mask: Any) -> Any:
        x = x + self.attention(self.norm(x), mask=mask[:, None, None, :])
        x = x + self.down(jax.nn.gelu(self.up(x)))
        return self.out((x * mask[..., None]).sum(1) / mask.sum(1)[:, None])


@pytest.mark.slow
def test_a_transformer_block_with_a_mask_and_a_part_of_the_batch(transform: Any) -> None:
    graph, params = nnx.split(Attention())
    model = lambda params: nnx.merge(graph, params)  # noqa: E731
    x = gradreg.Inputs(SEQUENCES, mask=MASK)
    assert_same(
        lambda params: gradreg.penalty(model(params), x, None, FrobReg(1.0)),
        lambda params: squared(lambda x, mask: model(params)(x, mask), SEQUENCES, MASK),
        params,
        transform,
    )


@pytest.mark.slow
def test_a_part_of_the_batch_is_cut_with_its_mask(x64: None) -> None:
    model, x = Attention(), gradreg.Inputs(SEQUENCES, mask=MASK)
    total, parts = compiled(lambda x: gradreg.loss(model, x, Y, FrobReg(1.0, fraction=0.5, seed=3)))(x)
    wanted, whole = gradreg.loss(model, x, Y, None)
    np.testing.assert_allclose(parts.loss, wanted, rtol=RIGHT)
    np.testing.assert_allclose(parts.outputs, whole.outputs, rtol=RIGHT)
    alone = jax.jacrev(lambda x, mask: model(x[None], mask[None])[0])
    jacobians = compiled(jax.vmap(alone))(SEQUENCES, MASK)
    norms = np.asarray((jacobians**2).sum((1, 2, 3)))
    halves = [(norms[i] + norms[j]) / 2 for i in range(4) for j in range(i)]
    assert np.abs(np.array(halves) / float(total - wanted) - 1).min() < RIGHT


class Recurrent(nnx.Module):
    def __init__(self) -> None:
        self.rnn = nnx.RNN(nnx.LSTMCell(6, 4, rngs=nnx.Rngs(0), **FLOAT))
        self.out = nnx.Linear(4, 3, rngs=nnx.Rngs(1), **FLOAT)

    def __call__(self, x: Any) -> Any:
        return self.out(self.rnn(x)[:, -1])


@pytest.mark.slow
def test_a_recurrent_network(transform: Any) -> None:
    graph, params, rest = nnx.split(Recurrent(), nnx.Param, ...)
    model = lambda params: nnx.merge(graph, params, rest, copy=True)  # noqa: E731

    def by_hand(params: Any) -> Any:
        of_input = squared(lambda x: model(params)(x), SEQUENCES)
        states = model(params).rnn(jnp.asarray(SEQUENCES))
        return of_input + squared(lambda h: model(params).out(h[:, -1]), states)

    reg = FrobReg(1.0) + FrobReg(1.0, at="rnn")
    assert_same(lambda params: gradreg.penalty(model(params), SEQUENCES, None, reg), by_hand, params, transform)


# --- other models -----------------------------------------------------------------------------------------------------
def test_a_contractive_autoencoder_in_one_pass(transform: Any) -> None:
    weights = [RNG.normal(size=(5, 3)), RNG.normal(size=(3, 5))]
    calls = []

    def ours(weights: Any) -> Any:
        def model(x: Any) -> Any:
            calls.append(None)
            return gradreg.tap("code", jax.nn.sigmoid(x @ weights[0])) @ weights[1]

        distance = lambda z, x: (z - x) ** 2  # noqa: E731
        return gradreg.loss(model, IMAGES, IMAGES, FrobReg(0.1, of="code"), loss_fn=distance)[0]

    def by_hand(weights: Any) -> Any:
        code = lambda x: jax.nn.sigmoid(x @ weights[0])  # noqa: E731
        return ((code(IMAGES) @ weights[1] - IMAGES) ** 2).mean() + 0.1 * squared(code, IMAGES)

    assert_same(ours, by_hand, weights, transform)
    assert len(calls) == 2  # one that computes nothing, to find the place, and the pass


@pytest.mark.slow
def test_a_graph_network(transform: Any) -> None:
    adjacency = np.array([[1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]]) / 3.0
    weights = [RNG.normal(size=(5, 4)), RNG.normal(size=(4, 3))]
    w = np.asarray(RNG.normal(size=(4, 3)))

    def model(weights: Any) -> Callable[[Any], Any]:
        return lambda nodes: adjacency @ (jnp.tanh(adjacency @ (nodes @ weights[0])) @ weights[1])

    def ours(weights: Any) -> Any:
        reg = gradreg.JacobianPenalty(1.0, projection=gradreg.direction())
        return gradreg.penalty(model(weights), IMAGES, None, reg, directions=w[None])

    def by_hand(weights: Any) -> Any:
        gradient = jax.grad(lambda nodes: (model(weights)(nodes) * w).sum())(IMAGES)
        return (gradient**2).sum() / 4

    assert_same(ours, by_hand, weights, transform)


class Masked(linen.Module):
    @linen.compact
    def __call__(self, x: Any, mask: Any) -> Any:
        h = linen.Dense(4, **FLOAT)(x)
        return linen.Dense(3, **FLOAT)((jnp.tanh(h) * mask[..., None]).sum(1))


@pytest.mark.slow
def test_linen_with_a_mask(transform: Any) -> None:
    net = Masked()
    variables = net.init(jax.random.key(0), SEQUENCES, MASK)
    assert_same(
        lambda v: gradreg.penalty(lambda *a: net.apply(v, *a), gradreg.Inputs(SEQUENCES, MASK), None, FrobReg(1.0)),
        lambda v: squared(lambda x, mask: net.apply(v, x, mask), SEQUENCES, MASK),
        variables,
        transform,
    )


class Gated(eqx.Module):
    first: eqx.nn.Linear
    out: eqx.nn.Linear

    def __call__(self, x: Any, mask: Any) -> Any:
        h = gradreg.tap("hidden", jnp.tanh(jax.vmap(self.first)(x)))
        return self.out((h * mask[:, None]).sum(0))


@pytest.mark.slow
def test_equinox_with_a_mask_and_a_place_inside_of_vmap(transform: Any) -> None:
    keys = jax.random.split(jax.random.key(0))
    net = Gated(eqx.nn.Linear(6, 4, key=keys[0], dtype=float), eqx.nn.Linear(4, 3, key=keys[1], dtype=float))

    def by_hand(net: Gated) -> Any:
        hidden = jnp.tanh(jax.vmap(jax.vmap(net.first))(SEQUENCES))
        head = lambda h, mask: jax.vmap(net.out)((h * mask[..., None]).sum(1))  # noqa: E731
        return squared(jax.vmap(net), SEQUENCES, MASK) + squared(head, hidden, MASK)

    reg, x = FrobReg(1.0) + FrobReg(1.0, at="hidden"), gradreg.Inputs(SEQUENCES, MASK, wrt="0")
    assert_same(lambda net: gradreg.penalty(jax.vmap(net), x, None, reg), by_hand, net, transform)
