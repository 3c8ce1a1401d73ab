"""Jacobians between places of a model, against Jacobians written out by hand."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import gradreg_jax as gradreg
from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad, FrobReg, SpectReg
from gradreg_jax.versions import enable_x64
from jax_cases import compiled

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 5))
WEIGHTS = [RNG.normal(size=shape) / 2 for shape in ((5, 6), (6, 4), (4, 3))]
RIGHT = 1e-11
"""Float64, a few hundred operations."""


def network(weights: Any, x: Any) -> Any:
    h = gradreg.tap("h", jnp.tanh(x @ weights[0]))
    code = gradreg.tap("code", jnp.tanh(h @ weights[1]))
    return code @ weights[2]


ALL = FrobReg(0.7) + FrobReg(1.0, at="h") + FrobReg(0.3, of="code") + FrobReg(0.5, of="code", at="h")


def squared(function: Callable[[Any], Any], x: Any) -> Any:
    """The mean squared Frobenius norm of each sample's Jacobian."""
    rows = jax.vmap(jax.jacrev(lambda sample: function(sample[None])[0]))(x)
    return (rows**2).sum() / len(x)


def by_hand(weights: Any, x: Any) -> Any:
    first, second, third = (lambda a: jnp.tanh(a @ weights[0])), (lambda a: jnp.tanh(a @ weights[1])), weights[2]
    h = first(x)
    return (
        0.7 * squared(lambda a: second(first(a)) @ third, x)
        + squared(lambda a: second(a) @ third, h)
        + 0.3 * squared(lambda a: second(first(a)), x)
        + 0.5 * squared(second, h)
    )


def assert_equal(ours: Any, wanted: Any) -> None:
    (value, slopes), (right, right_slopes) = ours, wanted
    np.testing.assert_allclose(value, right, rtol=RIGHT)
    for mine, other in zip(jax.tree.leaves(slopes), jax.tree.leaves(right_slopes), strict=True):
        np.testing.assert_allclose(mine, other, rtol=RIGHT, atol=RIGHT * np.abs(other).max())


@pytest.fixture
def wanted(x64: None) -> Any:
    return compiled(jax.value_and_grad(by_hand))(WEIGHTS, X)


def ours(wrap: Callable[[Any], Any], x: Any = X) -> Callable[[Any], Any]:
    return jax.value_and_grad(lambda weights: gradreg.penalty(wrap(lambda x: network(weights, x)), x, None, ALL))


@pytest.mark.slow
@pytest.mark.parametrize("transform", [lambda step: step, compiled], ids=["eager", "compiled"])
def test_between_any_two(transform: Any, wanted: Any) -> None:
    assert_equal(transform(ours(lambda model: model))(WEIGHTS), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrap",
    [jax.jit, jax.vmap, lambda model: jax.jit(jax.vmap(model)), lambda model: jax.vmap(jax.jit(model))],
    ids=["jit", "vmap", "jit of vmap", "vmap of jit"],
)
def test_taps_inside_of_transformations(wrap: Any, wanted: Any) -> None:
    assert_equal(compiled(ours(wrap))(WEIGHTS), wanted)


def test_a_function_that_was_compiled_before(wanted: Any) -> None:
    model = jax.jit(lambda x: network(WEIGHTS, x))
    before = model(X)
    for _ in range(2):
        np.testing.assert_allclose(gradreg.penalty(model, X, None, ALL), wanted[0], rtol=RIGHT)
    np.testing.assert_array_equal(model(X), before)


@pytest.mark.slow
def test_inside_of_a_scan_by_number(x64: None) -> None:
    weight = RNG.normal(size=(5, 5)) / 2

    def model(x: Any) -> Any:
        def body(h: Any, weight: Any) -> Any:
            return gradreg.tap("state", jnp.tanh(h @ weight)), None

        return jax.lax.scan(body, x, jnp.stack([weight] * 3))[0]

    once = jnp.tanh(jnp.tanh(X @ weight) @ weight)
    value = gradreg.penalty(model, X, None, FrobReg(1.0, at="state#1"))
    np.testing.assert_allclose(value, squared(lambda h: jnp.tanh(h @ weight), once), rtol=RIGHT)
    with pytest.raises(InputError, match=r"'state' is passed more than once.*'state#0', 'state#1'"):
        gradreg.penalty(model, X, None, FrobReg(1.0, at="state"))


@pytest.mark.parametrize(
    "wrap",
    [jax.checkpoint, lambda model: lambda x: jax.lax.cond(x.sum() > 0, model, model, x)],
    ids=["checkpoint", "cond"],
)
def test_where_a_value_cannot_leave_it_is_refused_by_name(wrap: Any) -> None:
    with pytest.raises(InputError, match=r"the place 'h' is inside .*jax.checkpoint.*Mark an input"):
        gradreg.penalty(wrap(lambda x: network(WEIGHTS, x)), X, None, FrobReg(1.0, at="h"))


def test_mistakes_are_named(x64: None) -> None:
    model = lambda x: network(WEIGHTS, x)  # noqa: E731
    with pytest.raises(InputError, match=r"no tap or layer 'k'.*Passed were: 'h', 'code'"):
        gradreg.penalty(model, X, None, FrobReg(1.0, at="k"))
    with pytest.raises(InputError, match=r"of='h' is passed before at='code'"):
        gradreg.penalty(model, X, None, FrobReg(1.0, of="h", at="code"))
    with pytest.raises(InputError, match=r"'h': a place must hold an array of a floating-point type, got int"):
        gradreg.penalty(lambda x: x * gradreg.tap("h", jnp.argmax(x, 1))[:, None], X, None, FrobReg(1.0, at="h"))
    heads = lambda x: jax.vmap(lambda w: gradreg.tap("h", x @ w))(jnp.ones((2, 5, 3))).sum(0)  # noqa: E731
    with pytest.raises(InputError, match="must have the batch axis first"):
        gradreg.penalty(heads, X, None, FrobReg(1.0, at="h"))


@pytest.mark.slow
def test_tokens(x64: None) -> None:
    table, weight = RNG.normal(size=(7, 5)), RNG.normal(size=(5, 3))
    tokens = RNG.integers(0, 7, (4, 6))
    head = lambda h: jnp.tanh(h).mean(1) @ weight  # noqa: E731
    model = lambda tokens: head(gradreg.tap("embedding", jnp.asarray(table)[tokens]))  # noqa: E731
    with pytest.raises(TypeError, match=r"gradreg.tap\('embedding', h\).*at='embedding'"):
        gradreg.penalty(model, tokens, None, FrobReg(1.0))
    value = gradreg.penalty(model, tokens, None, FrobReg(1.0, at="embedding"))
    np.testing.assert_allclose(value, squared(head, table[tokens]), rtol=RIGHT)


@pytest.mark.slow
def test_a_model_that_looks_at_values(wanted: Any) -> None:
    model = lambda x: network(WEIGHTS, x) if x[0, 0] > X[0, 0] - 1 else x  # noqa: E731
    np.testing.assert_allclose(gradreg.penalty(model, X, None, ALL), wanted[0], rtol=RIGHT)


# --- modules by name --------------------------------------------------------------------------------------------------
class Block(nnx.Module):
    def __init__(self, seed: int) -> None:
        self.linear = nnx.Linear(5, 5, rngs=nnx.Rngs(seed), param_dtype=jnp.float64)

    def __call__(self, x: Any) -> Any:
        return jnp.tanh(self.linear(x))


class Net(nnx.Module):
    def __init__(self) -> None:
        self.layers = nnx.List([Block(0), Block(1)])
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(5, 3, rngs=nnx.Rngs(2), param_dtype=jnp.float64)

    def __call__(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return self.out(self.drop(x))


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [lambda model: model, lambda model: lambda x: model(x)], ids=["module", "function"])
def test_parts_of_nnx_modules(wrap: Any, x64: None) -> None:
    model = Net()
    model.eval()
    middle = model.layers[0](X)
    value = gradreg.penalty(wrap(model), X, None, FrobReg(1.0, at="layers.0") + FrobReg(1.0, of="layers.1"))
    right = squared(lambda h: model.out(model.layers[1](h)), middle)
    right += squared(lambda x: model.layers[1](model.layers[0](x)), X)
    np.testing.assert_allclose(value, right, rtol=RIGHT)
    assert type(model.layers[0]) is Block
    with pytest.raises(InputError, match=r"no tap or layer 'layers.7'.*'layers.0'.*'out'"):
        gradreg.penalty(wrap(model), X, None, FrobReg(1.0, at="layers.7"))


def test_state_moves_once_with_places(x64: None) -> None:
    model, other = Net(), Net()
    other(jnp.asarray(X))
    gradreg.loss(model, X, np.arange(4) % 3, DataGrad(1.0) + SpectReg(1.0, at="layers.0"))
    assert int(model.drop.rngs.count[...]) == int(other.drop.rngs.count[...]) == 1


@pytest.mark.slow
def test_layers_of_linen(x64: None) -> None:
    class Tower(linen.Module):
        @linen.compact
        def __call__(self, x: Any) -> Any:
            encoded = linen.Dense(4, param_dtype=jnp.float64, name="encoder")(x)
            return linen.Dense(3, param_dtype=jnp.float64, name="head")(jnp.tanh(encoded))

    net = Tower()
    variables = net.init(jax.random.key(0), X)
    kernels = {name: layer["kernel"] for name, layer in variables["params"].items()}
    value = gradreg.penalty(lambda x: net.apply(variables, x), X, None, FrobReg(1.0, at="encoder"))
    wanted = squared(lambda h: jnp.tanh(h) @ kernels["head"], X @ kernels["encoder"])
    np.testing.assert_allclose(value, wanted, rtol=RIGHT)


def test_a_leaf_of_what_a_module_returns(x64: None) -> None:
    class Pair(nnx.Module):
        def __call__(self, x: Any) -> Any:
            return {"last": jnp.tanh(x), "count": x.shape[0]}, jnp.sin(x)

    class Outer(nnx.Module):
        def __init__(self) -> None:
            self.pair = Pair()

        def __call__(self, x: Any) -> Any:
            first, second = self.pair(x)
            return first["last"] * second

    for place, wanted in {"pair": jnp.sin(X), "pair[0.last]": jnp.sin(X), "pair[1]": jnp.tanh(X)}.items():
        value = gradreg.penalty(Outer(), X, None, FrobReg(1.0, at=place))
        np.testing.assert_allclose(value, (wanted**2).sum() / len(X), rtol=RIGHT)
    with pytest.raises(InputError, match=r"'pair\[2\]': what is returned there holds 0.last, 1"):
        gradreg.penalty(Outer(), X, None, FrobReg(1.0, at="pair[2]"))


@pytest.mark.slow
def test_threads_have_places_of_their_own(x64: None) -> None:
    model = Net()
    model.eval()
    calls = {place: FrobReg(1.0, at=place) for place in ("layers.0", "layers.1")}
    wanted = {place: float(gradreg.penalty(model, X, None, reg)) for place, reg in calls.items()}

    def value(number: int) -> tuple[str, float]:
        place = list(calls)[number % 2]
        wrapped = model if number < 4 else lambda x: model(x)
        with enable_x64(True):  # the setting is a thread's own
            return place, float(gradreg.penalty(wrapped, X, None, calls[place]))

    with ThreadPoolExecutor(4) as pool:
        for place, ours in pool.map(value, range(8)):
            assert ours == wanted[place]
