"""A convolution as one matrix product on the CPU, for models that are penalised there.

    layer = flax.nnx.Conv(1, 6, (5, 5), conv_general_dilated=gradreg_jax.layers.conv_general_dilated, rngs=nnx.Rngs(0))

On the CPU, XLA convolves images of few channels slowly, and takes the gradient with respect to them several times as
slowly again. A penalty needs that gradient and its derivatives.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["conv_general_dilated"]

Array = jax.Array

_FEW_CHANNELS = 8
"""Inputs of more channels are left to XLA, whose kernels are the faster ones there."""
_TILE = 8
"""Output columns of one product. Of its multiplications by the band (tile + k - 1) / k times as many as needed."""
_NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """`jax.lax.conv_general_dilated`, as a matrix product where that is faster, with all its derivatives.

    That is on the CPU, for images (B, H, W, C) with at most 8 channels and a kernel (k, l, C, F),
    ``dimension_numbers=("NHWC", "HWIO", "NHWC")``, strides of 1, and neither dilation nor groups. Everything else is
    handed on to JAX.

    Windows of equal values, such as an image's background, give equal outputs to the last bit, as from JAX's own: a
    maximum over them has a tie, of which the first has the derivative.

    Args:
        lhs: inputs.
        rhs: kernel.
        window_strides: one for each spatial axis.
        padding: "SAME", "VALID" or pairs (before, after).
        **options: the others of `jax.lax.conv_general_dilated`.
    """
    if not _applies(lhs, rhs, window_strides, padding, options):
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    pads = padding if not isinstance(padding, str) else _pads(lhs, rhs, padding)
    return _banded(lhs, rhs, pads, options.get("precision"))


def _applies(lhs: Array, rhs: Array, strides: Sequence[int], padding: Any, options: dict[str, Any]) -> bool:
    others = {name: each for name, each in options.items() if name not in ("dimension_numbers", "precision")}
    plain = all(each is None or each == 1 or tuple(_listed(each)) == (1, 1) for each in others.values())
    numbers = options.get("dimension_numbers")
    if lhs.ndim != 4 or numbers is None or jax.default_backend() != "cpu" or lhs.dtype != rhs.dtype:
        return False
    given = lax.conv_dimension_numbers(lhs.shape, rhs.shape, numbers)
    pads = _pads(lhs, rhs, padding) if isinstance(padding, str) else padding
    return (
        plain
        and given == lax.conv_dimension_numbers(lhs.shape, rhs.shape, _NHWC)
        and tuple(strides) == (1, 1)
        and 0 < lhs.shape[-1] == rhs.shape[2] <= _FEW_CHANNELS
        and all(side >= 0 for pair in pads for side in pair)
        and all(h + sum(pair) >= k for h, k, pair in zip(lhs.shape[1:3], rhs.shape[:2], pads, strict=True))
    )


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _pads(lhs: Array, rhs: Array, padding: str) -> Sequence[tuple[int, int]]:
    return lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], (1, 1), padding)


def _banded(x: Array, kernel: Array, pads: Sequence[tuple[int, int]], precision: Any) -> Array:
    """The convolution as one product: a tile of output columns is a row of windows times a band of the kernel.

    A window of k rows and tile + l - 1 columns holds all that a tile of output columns depends on. Column j of the band
    holds the kernel shifted by j columns, zeros around it. Zeros change no sum, but XLA adds the even and the odd terms
    of a product apart: a column of the window is padded to an even length, so that all outputs are summed alike.
    """
    height, width, channels, filters = kernel.shape
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    batch, rows, columns = x.shape[0], x.shape[1] - height + 1, x.shape[2] - width + 1
    tile = columns if columns <= 3 * _TILE // 2 else _TILE
    tiles = -(-columns // tile)
    wide, deep = tile + width - 1, height * channels
    odd = deep % 2
    x = jnp.pad(x, ((0, 0), (0, 0), (0, tiles * tile - columns), (0, 0)))
    stacked = jnp.concatenate([x[:, row : row + rows] for row in range(height)], -1)
    stacked = jnp.pad(stacked, ((0, 0), (0, 0), (0, 0), (0, odd)))
    windows = jnp.stack([stacked[:, :, start * tile : start * tile + wide] for start in range(tiles)], 2)
    column = jnp.moveaxis(kernel, 1, 0).reshape(width, deep, filters)
    shifted = [jnp.pad(column, ((j, tile - 1 - j), (0, odd), (0, 0))) for j in range(tile)]
    band = jnp.stack(shifted, 2).reshape(wide * (deep + odd), tile * filters)
    flat = jnp.matmul(windows.reshape(-1, wide * (deep + odd)), band, precision=precision)
    return flat.reshape(batch, rows, tiles * tile, filters)[:, :, :columns]
