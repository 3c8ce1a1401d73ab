"""State of NNX modules: plain arrays, containers, normalised weights, what is sown, layers in a scan."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradreg_jax as gradreg
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_jax.model import _frozen, repeatable

X = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
SAME = {"rtol": 1e-5, "atol": 1e-6}
"""Float32 through two programs."""

KINDS: dict[str, Callable[[], Any]] = {
    "array": lambda: jnp.ones(5),
    "numpy": lambda: np.ones(5, np.float32),
    "raw key": lambda: jax.random.PRNGKey(0),
    "key": lambda: jax.random.key(0),
    "list": lambda: nnx.data([jnp.ones(5), nnx.Linear(5, 5, rngs=nnx.Rngs(2))]),
    "dict": lambda: nnx.data({"scale": jnp.ones(5)}),
    "weight norm": lambda: nnx.WeightNorm(nnx.Linear(5, 5, rngs=nnx.Rngs(2)), rngs=nnx.Rngs(3)),
    "text": lambda: "mean",
}


class Plain(nnx.Module):
    """A module with an attribute that is not a variable."""

    def __init__(self, extra: Any) -> None:
        self.extra = extra
        self.linear = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        extra = self.extra
        if isinstance(extra, nnx.WeightNorm):
            x = extra(x)
        elif isinstance(extra, jax.Array | np.ndarray) and extra.shape == (5,):
            x = x + extra
        return jnp.tanh(self.linear(x))


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_that_are_no_variables(kind: str) -> None:
    model = Plain(KINDS[kind]())
    wanted, _ = gradreg.loss(lambda x: model(x), X, Y, SpectReg(1.0))
    total, parts = gradreg.loss(model, X, Y, SpectReg(1.0))
    assert float(total) == pytest.approx(float(wanted), rel=1e-6)
    np.testing.assert_allclose(parts.outputs, model(X), **SAME)
    jitted = nnx.jit(lambda model: gradreg.loss(model, X, Y, SpectReg(1.0))[0])(model)
    assert float(jitted) == pytest.approx(float(wanted), rel=1e-5)
    with repeatable(model):
        pass


class Moving(nnx.Module):
    """A running mean in a plain array."""

    def __init__(self) -> None:
        self.mean = jnp.zeros(5)
        self.linear = nnx.Linear(5, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: Any) -> Any:
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return jnp.tanh(self.linear(x - self.mean))


class Spectral(nnx.Module):
    """A layer that divides its weights by a norm from power iteration."""

    def __init__(self) -> None:
        self.linear = nnx.SpectralNorm(nnx.Linear(5, 3, rngs=nnx.Rngs(0)), rngs=nnx.Rngs(1))

    def __call__(self, x: Any) -> Any:
        return jnp.tanh(self.linear(x, update_stats=True))


ONCE: list[Regularizer] = [
    DataGrad(1.0),
    SpectReg(1.0, side="input", projections=2),
    SpectReg(1.0, side="input", method="difference", projections=2),
    SpectReg(1.0) + SpectReg(1.0, fraction=0.5),
]


@pytest.mark.parametrize("make", [Moving, Spectral])
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lambda x: model(x)], ids=["module", "function"])
@pytest.mark.parametrize("reg", ONCE, ids=range(len(ONCE)))
def test_state_moves_once(make: Any, wrap: Any, reg: Regularizer) -> None:
    model, plain = make(), make()
    plain(X)
    gradreg.loss(wrap(model), X, Y, reg)
    leaves = zip(*(jax.tree.leaves(nnx.as_pure(nnx.state(net))) for net in (model, plain, make())), strict=True)
    assert any(not np.allclose(after, before) for after, _, before in leaves)
    for after, wanted in zip(*(jax.tree.leaves(nnx.as_pure(nnx.state(net))) for net in (model, plain)), strict=True):
        np.testing.assert_allclose(after, wanted, **SAME)


def test_contexts_are_left_clean_after_any_error(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Moving()

    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no state")

    with monkeypatch.context() as patch:
        patch.setattr(nnx, "state", fail)
        with pytest.raises(RuntimeError, match="no state"), repeatable(model):
            pass
    with pytest.raises(ZeroDivisionError), repeatable(model):
        raise ZeroDivisionError
    assert not _frozen.get()
    gradreg.loss(model, X, Y, DataGrad(1.0))
    np.testing.assert_allclose(model.mean, 0.1 * X.mean(0), **SAME)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow:DeprecationWarning")
def test_what_a_module_sows_is_there_afterwards() -> None:
    class Sowing(Plain):
        def __call__(self, x: Any) -> Any:
            self.sow(nnx.Intermediate, "seen", 2 * x)
            return super().__call__(x)

    model = Sowing("nothing")
    gradreg.loss(model, X, Y, SpectReg(1.0))
    (seen,) = model.seen.get_raw_value()
    np.testing.assert_array_equal(seen, 2 * X)


class Deep(nnx.Module):
    """Three equal blocks in one scan."""

    def __init__(self) -> None:
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs: Any) -> Any:
            return nnx.Linear(5, 5, rngs=rngs)

        self.layers = make(nnx.Rngs(0))
        self.out = nnx.Linear(5, 3, rngs=nnx.Rngs(1))

    def __call__(self, x: Any) -> Any:
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
        def through(layer: Any, x: Any) -> Any:
            return jnp.tanh(layer(x))

        return self.out(through(self.layers, x))


def test_layers_in_a_scan_behind_a_function() -> None:
    model = Deep()
    kernels, biases = model.layers.kernel[...], model.layers.bias[...]

    def plain(x: Any) -> Any:
        for kernel, bias in zip(kernels, biases, strict=True):
            x = jnp.tanh(x @ kernel + bias)
        return x @ model.out.kernel[...] + model.out.bias[...]

    wanted = float(gradreg.penalty(plain, X, None, SpectReg(1.0)))
    for call in (model, lambda x: model(x)):
        assert float(gradreg.penalty(call, X, None, SpectReg(1.0))) == pytest.approx(wanted, rel=1e-5)
