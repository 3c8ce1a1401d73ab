"""Recomputed parts, derivatives of the user's own and loops in JAX: against double backward by hand, in float64."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import AxisType, PartitionSpec

import gradreg_jax as gradreg
from jax_cases import compiled

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3))
WEIGHTS = {"block": RNG.normal(size=(3, 3)), "loop": RNG.normal(size=(5, 3, 3)) / 2, "head": RNG.normal(size=(3, 2))}
RIGHT = 1e-11
"""Float64, a few thousand operations."""

POLICIES: dict[str, Any] = {
    "everything": None,
    "nothing_saveable": jax.checkpoint_policies.nothing_saveable,
    "dots_saveable": jax.checkpoint_policies.dots_saveable,
    "save_only_these_names": jax.checkpoint_policies.save_only_these_names("hidden"),
    "save_anything_except_these_names": jax.checkpoint_policies.save_anything_except_these_names("hidden"),
}


Model = Callable[[Any, Any], Any]


def block(weights: Any, x: Any) -> Any:
    return jnp.tanh(checkpoint_name(jnp.sin(x @ weights["block"]), "hidden")) @ weights["block"]


def plain(weights: Any, x: Any) -> Any:
    return jnp.tanh(jnp.tanh(jnp.sin(x @ weights["block"])) @ weights["block"]) @ weights["head"]


@jax.custom_vjp
def cubed(x: Any) -> Any:
    return x**3


cubed.defvjp(lambda x: (x**3, x), lambda x, g: (3 * g * x**2,))


def looped(step: Callable[[Any], Any], around: Callable[[Any], Any] = lambda body: body) -> Callable[[Any, Any], Any]:
    """A scan over five layers with `step` in each."""

    def model(weights: Any, x: Any) -> Any:
        body = around(lambda h, layer: (step(jnp.sin(h @ layer)), None))
        return jax.lax.scan(body, x, weights["loop"])[0] @ weights["head"]

    return model


def unrolled(weights: Any, x: Any) -> Any:
    for layer in weights["loop"]:
        x = jnp.sin(x @ layer) ** 3
    return x @ weights["head"]


def by_hand(model: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """The mean squared Frobenius norm of each sample's Jacobian."""
    return lambda weights: (jax.vmap(jax.jacrev(lambda x: model(weights, x)))(X) ** 2).sum() / len(X)


def assert_right(model: Model, reference: Model, reg: Any) -> None:
    def ours(weights: Any) -> Any:
        return gradreg.penalty(lambda x: model(weights, x), X, None, reg)

    value, slopes = compiled(jax.value_and_grad(ours))(WEIGHTS)
    wanted, right = compiled(jax.value_and_grad(by_hand(reference)))(WEIGHTS)
    np.testing.assert_allclose(value, wanted, rtol=RIGHT)
    for name, slope in slopes.items():
        np.testing.assert_allclose(slope, right[name], rtol=RIGHT, atol=RIGHT * np.abs(right[name]).max())


@pytest.mark.parametrize("name", POLICIES)
def test_recomputed_parts(name: str, x64: None) -> None:
    options = {"policy": POLICIES[name]}

    def model(weights: Any, x: Any) -> Any:
        return jnp.tanh(jax.checkpoint(block, **options)(weights, x)) @ weights["head"]

    assert_right(model, plain, gradreg.FrobReg(1.0))


@pytest.mark.parametrize("name", ["nothing_saveable", "dots_saveable"])
def test_a_recomputed_model(name: str, x64: None) -> None:
    """The whole model, whose outputs are the checkpoint's own."""
    model = jax.checkpoint(plain, policy=POLICIES[name], prevent_cse=False)
    assert_right(model, plain, gradreg.FrobReg(1.0))


SCANS: dict[str, Callable[[Any, Any], Any]] = {
    "custom_vjp": looped(cubed),
    "recomputed": looped(lambda h: h**3, jax.checkpoint),
    "custom_vjp, recomputed": looped(cubed, lambda body: jax.checkpoint(body, prevent_cse=False)),
    "jit": looped(jax.jit(cubed)),
}


@pytest.mark.parametrize("name", SCANS)
def test_loops(name: str, x64: None) -> None:
    assert_right(SCANS[name], unrolled, gradreg.FrobReg(1.0))


def test_a_model_split_over_devices(x64: None) -> None:
    """shard_map inside of the model: each device has some of the samples, here one device all of them."""
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    model = jax.shard_map(
        looped(cubed), mesh=mesh, in_specs=(PartitionSpec(), PartitionSpec("data")), out_specs=PartitionSpec("data")
    )
    assert_right(model, unrolled, gradreg.FrobReg(1.0))
