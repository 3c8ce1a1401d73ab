"""The primitives in JAX: draws, rows of a pullback, steps that are not due, sample ids and steps of any kind."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradreg_jax as gradreg
import gradreg_numpy
from cases import problem
from gradreg_core.errors import InputError
from gradreg_core.presets import (
    DataGrad,
    JacReg,
    SpectReg,
)
from gradreg_core.random import Draws
from gradreg_jax import backend
from gradreg_jax.backend import JaxBackend
from gradreg_jax.networks import apply
from gradreg_jax.versions import enable_x64
from gradreg_numpy.draws import draws as reference_draws
from jax_cases import split


@pytest.mark.parametrize(("bits", "is_compiled", "few"), [(32, False, 1024), (32, True, 0), (64, True, 1024)])
def test_draws_are_bit_identical(bits: int, is_compiled: bool, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_FEW_WORDS", few)  # up to which JAX's own primitive is used
    ids = np.array([0, 1, 2**31 - 1, -5, 7], np.int32)
    seed, step = 2**63 + 12345, 2**33 + 17

    def drawn(source: Any) -> list[Any]:
        draws = [source.gaussians(0, (0, 3), 4)]
        if is_compiled:
            draws += [source.uniforms(0, (0, 3), 4), source.signs(1, (2, 7), 100), source.integers(0, (0, 3), 1000)]
        return draws

    with enable_x64(bits == 64):
        call = lambda ids, step: drawn(Draws(JaxBackend(), seed, step, ids))  # noqa: E731
        call, own_step = (jax.jit(call), np.int32(step % 2**32)) if is_compiled else (call, step)
        ours = call(jnp.asarray(ids), own_step)
    for mine, reference in zip(ours, drawn(reference_draws(seed, step, ids)), strict=True):
        assert mine.dtype == reference.dtype
        np.testing.assert_array_equal(np.asarray(mine), reference)


def test_sample_ids_of_other_integer_types() -> None:
    model, x, y = problem("dense")
    ids = np.array([2**31 - 1, 0, 5, 2**30], np.int64)
    weights = split(model)[0]
    wanted = gradreg_numpy.penalty(model, x, y, SpectReg(1.0), sample_ids=ids)
    for own in (ids, ids.tolist(), jnp.asarray(ids.astype(np.uint32))):
        value = gradreg.penalty(lambda x: apply(model.network, weights, x), x, None, SpectReg(1.0), sample_ids=own)
        assert float(value) == pytest.approx(wanted, rel=1e-5)  # float32 against float64
    with pytest.raises(InputError, match=r"sample_ids must lie in \[-2\*\*31, 2\*\*31\)"):
        gradreg.penalty(lambda x: x, x, None, SpectReg(1.0), sample_ids=ids + 1)


def test_steps_that_are_not_due_do_no_work() -> None:
    backward = []

    def seen(w: Any) -> Any:
        backward.append(1)
        return w

    @jax.custom_vjp
    def counted(x: Any) -> Any:
        return x

    counted.defvjp(
        lambda x: (x, None), lambda _, w: (jax.pure_callback(seen, jax.typeof(w), w, vmap_method="sequential"),)
    )

    @jax.jit
    def value(x: Any, step: Any) -> Any:
        reg = DataGrad(1.0, every=3) + JacReg(0.1, every=6)
        return gradreg.loss(lambda x: counted(x) ** 2, x, jnp.zeros(3, int), reg, step=step)[0]

    counts = []
    for step in range(7):
        value(jnp.ones((3, 2)), step).block_until_ready()
        counts.append(len(backward))
        backward.clear()
    assert [count > 0 for count in counts] == [True, False, False, True, False, False, True]
    assert counts[0] > counts[3]


@pytest.mark.parametrize("kind", [int, np.int64, jnp.int32, lambda n: np.array(n), lambda n: jnp.array(n, jnp.uint8)])
def test_a_step_of_any_integer_kind(kind: Any) -> None:
    model, x, _ = problem("dense")
    weights = split(model)[0]
    reg = SpectReg(1.0, every=3)
    values = [
        float(gradreg.penalty(lambda x: apply(model.network, weights, x), x, None, reg, step=kind(step)))
        for step in (2, 3)
    ]
    assert values[0] == 0
    assert values[1] == pytest.approx(gradreg_numpy.penalty(model, x, None, reg, step=3), rel=1e-5)  # float32


@pytest.mark.parametrize("convolves", [False, True])
def test_rows_are_pulled_in_a_loop_unless_there_is_a_convolution_in_it(convolves: bool) -> None:
    def model(x: Any) -> Any:
        if convolves:
            x = jax.lax.conv(x[:, None, None, :], jnp.ones((1, 1, 1, 2)), (1, 1), "VALID")[:, 0, 0]
        return jnp.tanh(x @ jnp.ones((x.shape[1], 3)))

    x = jnp.ones((4, 6))
    program = str(jax.make_jaxpr(lambda x: gradreg.penalty(model, x, None, JacReg(1.0)))(x))
    assert ("scan[" in program) is not convolves
