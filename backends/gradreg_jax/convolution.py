"""A convolution as one matrix product on the CPU.

    from gradreg_jax.convolution import conv_general_dilated

    layer = flax.nnx.Conv(1, 6, (5, 5), conv_general_dilated=conv_general_dilated, rngs=nnx.Rngs(0))

On the CPU, XLA's convolution of images with few channels is slow, and its gradient with respect to them is several
times slower still. A penalty needs that gradient and its derivatives.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

__all__ = ["conv_general_dilated"]

Array = jax.Array

_FEW_CHANNELS = 8
"""XLA handles inputs with more channels; its kernels are faster there."""
_TILE = 8
"""Output columns per product. It takes (tile + k - 1) / k times the multiplications of the convolution."""
_NHWC = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    **options: Any,
) -> Array:
    """`jax.lax.conv_general_dilated`, as a matrix product if that is faster, with all its derivatives.

    It is faster on the CPU, for images (B, H, W, C) with at most 8 channels and a kernel (k, l, C, F),
    ``dimension_numbers=("NHWC", "HWIO", "NHWC")``, strides of 1, and neither dilation nor groups. All other cases go
    to JAX's function.

    Windows of equal values, such as an image's background, give outputs equal to the last bit, as JAX's function
    does. A maximum over them is a tie, and its first element has the derivative.

    Args:
        lhs: inputs.
        rhs: kernel.
        window_strides: one per spatial axis.
        padding: "SAME", "VALID" or pairs (before, after).
        **options: the other arguments of `jax.lax.conv_general_dilated`.
    """
    pads = _pads_of_product(lhs, rhs, window_strides, padding, **options)
    if pads is None:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **options)
    return _banded(lhs, rhs, pads, options.get("precision"))


def _pads_of_product(
    lhs: Array,
    rhs: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    dimension_numbers: Any = None,
    precision: Any = None,
    **others: Any,
) -> Sequence[tuple[int, int]] | None:
    """Rows and columns to add before and after the image, or None if JAX computes the convolution."""
    if lhs.ndim != 4 or dimension_numbers is None or jax.default_backend() != "cpu" or lhs.dtype != rhs.dtype:
        return None
    numbers = [lax.conv_dimension_numbers(lhs.shape, rhs.shape, layout) for layout in (dimension_numbers, _NHWC)]
    plain = tuple(strides) == (1, 1) and all(option in (None, 1, (1, 1), [1, 1]) for option in others.values())
    if numbers[0] != numbers[1] or not plain or not 0 < lhs.shape[-1] == rhs.shape[2] <= _FEW_CHANNELS:
        return None
    image, kernel = lhs.shape[1:3], rhs.shape[:2]
    pads = lax.padtype_to_pads(image, kernel, (1, 1), padding) if isinstance(padding, str) else padding
    fits = all(min(pair) >= 0 and h + sum(pair) >= k for h, k, pair in zip(image, kernel, pads, strict=True))
    return pads if fits else None


def _banded(x: Array, kernel: Array, pads: Sequence[tuple[int, int]], precision: Any) -> Array:
    """The convolution as one product: a tile of output columns is a row of windows times a band of the kernel.

    A window of k rows and tile + l - 1 columns holds everything that a tile of output columns depends on. Column j of
    the band holds the kernel shifted by j columns, with zeros around it. Zeros change no sum, but XLA adds the even and
    the odd terms of a product separately. A column of the window is therefore padded to an even length, so that all
    outputs are summed in the same order.
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
