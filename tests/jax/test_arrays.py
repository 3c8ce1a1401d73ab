"""Arrays of JAX that have no gradient, as all of x or beside what has one: sparse ones, random keys, few bits."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse

import gradreg_jax as gradreg
from gradreg_core.errors import InputError, InputTypeError

X = np.linspace(-1, 1, 12).reshape(4, 3)
WEIGHTS = np.random.default_rng(0).normal(size=(3, 2))
WHOLE = gradreg.FrobReg(1.0)
REGS = [WHOLE, gradreg.SpectReg(1.0, fraction=0.5), gradreg.FrobReg(1.0, at="hidden")]
IDS = ["whole", "fraction", "at"]


def uniform(key: Any) -> Any:
    return jax.random.uniform(key, (3,), "float64")


NUMBERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "float8": (lambda: jnp.asarray(X, "float8_e5m2"), lambda a: a.astype("float64")),
    "int4": (lambda: jnp.asarray(X * 4, "int4"), lambda a: a.astype("float64")),
    "keys": (lambda: jax.random.split(jax.random.key(0), 4), jax.vmap(uniform)),
    "old keys": (lambda: jax.random.split(jax.random.PRNGKey(0), 4), jax.vmap(uniform)),
}
"""The arrays, and what a model makes of them."""
SPARSE: dict[str, Callable[[], Any]] = {
    "BCOO": lambda: sparse.BCOO.fromdense(jnp.asarray(X)),
    "BCOO in batches": lambda: sparse.BCOO.fromdense(jnp.asarray(X), n_batch=1),
    "BCSR": lambda: sparse.BCSR.fromdense(jnp.asarray(X)),
}


def network(x: Any, beside: Any) -> Any:
    return gradreg.tap("hidden", jnp.tanh(x @ WEIGHTS + jnp.sin(beside) @ WEIGHTS)) ** 2


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("reg", REGS, ids=IDS)
def test_beside_an_input_that_has_a_gradient(name: str, reg: Any, x64: None) -> None:
    array, read = NUMBERS[name][0](), NUMBERS[name][1]

    def both(x: Any) -> Any:
        return network(x["x"], read(x["beside"]))

    wanted = gradreg.penalty(network, gradreg.Inputs(X, read(array), wrt="0"), None, reg)
    separate = gradreg.penalty(lambda x, a: network(x, read(a)), gradreg.Inputs(X, array), None, reg)
    np.testing.assert_allclose(separate, wanted, rtol=1e-12)  # the same operations
    np.testing.assert_allclose(gradreg.penalty(both, {"x": X, "beside": array}, None, reg), wanted, rtol=1e-12)


@pytest.mark.parametrize("name", NUMBERS)
def test_alone(name: str, x64: None) -> None:
    array, read = NUMBERS[name][0](), NUMBERS[name][1]
    for reg in REGS[:2]:
        with pytest.raises(InputTypeError, match=r"the input has dtype .*, and only floating-point inputs of 16 bits"):
            gradreg.penalty(lambda a: network(X, read(a)), array, None, reg)
    with pytest.raises(InputError, match="wrt='1' names no floating-point array: it holds 1"):
        gradreg.penalty(lambda x, a: network(x, read(a)), gradreg.Inputs(X, array, wrt="1"), None, WHOLE)
    # The remedy: with respect to a place behind it.
    at_place = gradreg.penalty(lambda a: network(X, read(a)), array, None, REGS[2])
    wanted = gradreg.penalty(network, gradreg.Inputs(X, read(array)), None, REGS[2])
    np.testing.assert_allclose(at_place, wanted, rtol=1e-12)


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.parametrize("reg", REGS, ids=IDS)
def test_sparse_arrays(name: str, reg: Any, x64: None) -> None:
    array = SPARSE[name]()
    for x in (array, {"x": X, "beside": array}, *(gradreg.Inputs(X, array, wrt=wrt) for wrt in (None, "0", "1"))):
        with pytest.raises(InputTypeError, match=r"got jax\.experimental\.sparse\..*of float64\. Pass x\.todense\(\)"):
            gradreg.penalty(lambda *_: pytest.fail("the model was called"), x, None, reg)
    dense = gradreg.penalty(network, gradreg.Inputs(X, array.todense()), None, reg)
    np.testing.assert_allclose(dense, gradreg.penalty(network, gradreg.Inputs(X, X), None, reg), rtol=1e-12)
