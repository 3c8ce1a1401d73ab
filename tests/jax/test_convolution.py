"""The convolution as a matrix product: JAX's own values and derivatives, and its ties."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import gradreg_jax as gradreg
from gradreg_jax.convolution import conv_general_dilated
from gradreg_jax.versions import enable_x64
from jax_cases import compiled

CONVOLUTIONS = (conv_general_dilated, lax.conv_general_dilated)
NHWC = ("NHWC", "HWIO", "NHWC")
CASES = [
    # image, kernel, padding: one tile of columns, several, a last one that is not full, unequal sides, a side of 1
    ((2, 9, 8, 1), (3, 3, 1, 4), "VALID"),
    ((2, 6, 30, 1), (5, 5, 1, 3), "VALID"),
    ((1, 5, 23, 3), (2, 4, 3, 2), "SAME"),
    ((2, 4, 14, 8), (1, 1, 8, 2), "SAME"),
    ((1, 4, 3, 2), (4, 3, 2, 5), [(0, 1), (2, 0)]),
]


def arrays(*shapes: tuple[int, ...], dtype: str = "float64") -> list[jax.Array]:
    generator = np.random.default_rng(0)
    return [jnp.asarray(generator.normal(size=shape), dtype) for shape in shapes]


def derivatives(convolve: Any, x: jax.Array, kernel: jax.Array, padding: Any) -> list[jax.Array]:
    """Value, Jacobian-vector products and gradients up to the second order."""

    def value(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return convolve(jnp.sin(x), kernel, (1, 1), padding, dimension_numbers=NHWC)

    def first(x: jax.Array, kernel: jax.Array) -> Any:
        z, pull = jax.vjp(value, x, kernel)
        return pull(jnp.cos(z))

    def second(x: jax.Array, kernel: jax.Array) -> Any:
        return jax.grad(lambda *both: sum((slope**2).sum() for slope in first(*both)), (0, 1))(x, kernel)

    def everything(*both: jax.Array) -> Any:
        tangents = jax.jvp(jax.grad(lambda *point: value(*point).sum(), (0, 1)), both, both)
        batched = jax.vmap(lambda row: jax.vjp(value, *both)[1](row)[0])(jnp.stack([value(*both)] * 2))
        return first(*both), second(*both), tangents, batched

    return jax.tree.leaves(compiled(everything)(x, kernel))


@pytest.mark.parametrize(("image", "kernel", "padding"), CASES)
def test_derivatives_are_those_of_jax(image: Any, kernel: Any, padding: Any) -> None:
    with enable_x64(True):
        given = arrays(image, kernel)
        ours_and_theirs = [derivatives(convolve, *given, padding) for convolve in CONVOLUTIONS]
        for ours, theirs in zip(*ours_and_theirs, strict=True):
            # Sums of a few hundred float64 products in another order, through two derivatives.
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-11 * float(jnp.abs(theirs).max()))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("channels", [1, 3, 6])
@pytest.mark.parametrize("filters", [6, 16])
def test_equal_windows_give_equal_outputs(channels: int, filters: int, dtype: str) -> None:
    """Else rounding would decide which of a background's pixels is the largest in a window of a pooling."""
    with enable_x64(True):
        pixel, kernel = arrays((channels,), (5, 5, channels, filters), dtype=dtype)
        x = jnp.broadcast_to(pixel, (4, 12, 30, channels))
        outputs = jax.jit(lambda: conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=NHWC))()
        assert outputs.dtype == dtype
        assert (outputs == outputs[:1, :1, :1]).all()


@pytest.mark.parametrize(
    ("image", "kernel", "strides", "padding", "options"),
    [
        ((2, 9, 8, 1), (3, 3, 1, 4), (2, 1), "SAME", {}),
        ((2, 9, 8, 9), (3, 3, 9, 4), (1, 1), "VALID", {}),
        ((2, 9, 8, 4), (3, 3, 2, 4), (1, 1), "VALID", {"feature_group_count": 2}),
        ((2, 9, 8, 1), (3, 3, 1, 4), (1, 1), "VALID", {"rhs_dilation": (2, 2)}),
        ((2, 9, 8, 1), (3, 3, 1, 4), (1, 1), [(-1, 0), (0, 0)], {}),
        ((2, 9, 8, 1), (3, 3, 1, 4), (1, 1), "VALID", {"preferred_element_type": jnp.float64}),
        ((2, 1, 9, 8), (4, 1, 3, 3), (1, 1), "VALID", {"dimension_numbers": ("NCHW", "OIHW", "NCHW")}),
        ((2, 9, 1), (3, 1, 4), (1,), "VALID", {"dimension_numbers": ("NWC", "WIO", "NWC")}),
    ],
)
def test_what_it_does_not_speed_up_is_left_to_jax(
    image: Any, kernel: Any, strides: Any, padding: Any, options: Any
) -> None:
    with enable_x64(True):
        given, options = arrays(image, kernel), {"dimension_numbers": NHWC, **options}
        ours, theirs = (
            jax.make_jaxpr(partial(convolve, window_strides=strides, padding=padding, **options))(*given)
            for convolve in CONVOLUTIONS
        )
        assert str(ours) == str(theirs)


def test_a_flax_layer_takes_it() -> None:
    nnx = pytest.importorskip("flax.nnx")
    layers = [nnx.Conv(1, 4, (3, 3), conv_general_dilated=convolve, rngs=nnx.Rngs(0)) for convolve in CONVOLUTIONS]
    (x,) = arrays((2, 12, 12, 1), dtype="float32")
    penalties = []
    for layer in layers:
        graph, weights = nnx.split(layer)

        def total(weights: Any, graph: Any = graph) -> jax.Array:
            model = lambda at: nnx.merge(graph, weights)(at).reshape(2, -1)[:, :5] ** 2  # noqa: E731
            return gradreg.penalty(model, x, None, gradreg.FrobReg(0.1))

        penalties.append(jax.tree.leaves(jax.jit(jax.grad(total))(weights)))
    for ours, theirs in zip(*penalties, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)  # float32 sums of some hundred terms
