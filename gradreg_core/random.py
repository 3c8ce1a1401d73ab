"""Draws as pure functions of (seed, step, global sample id, projection, logit), identical in every framework.

The generator is Threefry-2x32-20 (Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3; SC 2011),
written over 32-bit add, xor, shift and mask alone. Keys are derived so that no draw depends on the batch:

    key     = threefry(threefry(seed, (stream, step)), (0, projection))
    counter = (sample id, block)

Words, signs, picks and Gaussians are bit-identical in all frameworks, eager and compiled, on every device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Any

from gradreg_core.backend import Array, Backend

__all__ = [
    "GAUSSIAN_CELLS",
    "PARITY",
    "ROTATIONS",
    "STREAM_DIRECTION",
    "STREAM_START",
    "STREAM_SUBSET",
    "Draws",
    "gaussian_table",
    "make_draws",
    "threefry2x32",
]

STREAM_DIRECTION = 0
STREAM_SUBSET = 1
STREAM_START = 2

PARITY = 0x1BD11BDA
ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
GAUSSIAN_CELLS = 1024
_FRACTION_BITS = 12


def _logical_right_shift(ops: Backend, array: Array, bits: Any) -> Array:
    """Shift right with zeros coming in; int32 has only the arithmetic shift in some frameworks. 0 < bits < 32."""
    return ops.bitwise_right_shift(array, bits) & ((1 << (32 - bits)) - 1)


def _rotate_left(ops: Backend, array: Array, bits: int) -> Array:
    return ops.bitwise_left_shift(array, bits) | _logical_right_shift(ops, array, 32 - bits)


def threefry2x32(ops: Backend, key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
    """Threefry-2x32 with 20 rounds over int32 arrays that broadcast against each other.

    A backend that has the same words from a native primitive offers it as a method `threefry2x32(key, counter)`.
    Checked against the known-answer vectors of Random123 (kat_vectors, threefry2x32 with 20 rounds).
    """
    schedule = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    x0 = counter[0] + schedule[0]
    x1 = counter[1] + schedule[1]
    for group in range(5):
        for bits in ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(ops, x1, bits) ^ x0
        x0 = x0 + schedule[(group + 1) % 3]
        x1 = x1 + schedule[(group + 2) % 3] + (group + 1)
    return x0, x1


def _signed(word: int) -> int:
    """An unsigned 32-bit word as the int32 with the same bits."""
    return (word + 2**31) % 2**32 - 2**31


def _host_threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """:func:`threefry2x32` of Python ints in [0, 2**32): what an array of one element costs fifty times as much for."""
    mask = 0xFFFFFFFF
    schedule = (key[0], key[1], key[0] ^ key[1] ^ PARITY)
    x0, x1 = (counter[0] + key[0]) & mask, (counter[1] + key[1]) & mask
    for group in range(5):
        for bits in ROTATIONS[group % 2]:
            x0 = (x0 + x1) & mask
            x1 = ((x1 << bits) & mask | x1 >> (32 - bits)) ^ x0
        x0 = (x0 + schedule[(group + 1) % 3]) & mask
        x1 = (x1 + schedule[(group + 2) % 3] + group + 1) & mask
    return x0, x1


def gaussian_table() -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Offsets and slopes of the half-normal quantile function in 1024 equally likely cells.

    Within a cell the quantile is a line: value = offset + slope * fraction with a 12-bit fraction. The slope has 12
    significant bits, so the product is exact in float32 and the sum rounds once: a fused multiply-add changes nothing,
    and every framework gives the same bits. The last cell, where the quantile is unbounded, ends where the variance of
    the whole becomes 1: |z| < 3.80, kurtosis 2.996.
    """
    fractions = 1 << _FRACTION_BITS
    normal = NormalDist()
    ends = [normal.inv_cdf(0.5 + 0.5 * cell / GAUSSIAN_CELLS) for cell in range(GAUSSIAN_CELLS)]

    def line(start: float, stop: float) -> tuple[float, float]:
        mantissa, exponent = math.frexp((stop - start) / fractions)
        slope = math.ldexp(round(math.ldexp(mantissa, 12)), exponent - 12)
        return start + slope / 2, slope

    def second_moment(offset: float, slope: float) -> float:
        mean = (fractions - 1) / 2
        mean_square = (fractions - 1) * (2 * fractions - 1) / 6
        return offset * offset + 2 * offset * slope * mean + slope * slope * mean_square

    lines = [line(ends[cell], ends[cell + 1]) for cell in range(GAUSSIAN_CELLS - 1)]
    wanted = GAUSSIAN_CELLS - math.fsum(second_moment(*each) for each in lines)
    low, high = ends[-1], 8.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if second_moment(*line(ends[-1], middle)) < wanted else (low, middle)
    lines.append(line(ends[-1], high))
    return tuple(offset for offset, _ in lines), tuple(slope for _, slope in lines)


_OFFSETS, _SLOPES = gaussian_table()


def make_draws(ops: Backend, seed: Any, step: Any, sample_ids: Array) -> "Draws":
    """The draws of a term, by the backend's own way where it has one; see :class:`Draws` for the arguments."""
    own = getattr(ops, "draws", None)
    return Draws(ops, seed, step, sample_ids) if own is None else own(seed, step, sample_ids)


@dataclass(frozen=True)
class Draws:
    """The draws of one call: bound to a backend, a seed, a step and the sample ids.

    `seed` is an int in [0, 2**64) or a (traced) integer scalar, `step` the same, of which the low 32 bits count,
    `sample_ids` an int32 array (B,). All results are float32 unless said otherwise; projections index the first axis.
    """

    ops: Backend
    seed: Any
    step: Any
    sample_ids: Array

    def words(self, stream: int, projections: Sequence[int], blocks: int) -> Array:
        """Random 32-bit words as int32, shape (len(projections), B, 2 * blocks)."""
        return self._words(stream, projections, blocks)

    def _words(self, stream: int, projections: Sequence[int], blocks: int) -> Array:
        ops, like = self.ops, self.sample_ids
        rounds = getattr(ops, "threefry2x32", None) or partial(threefry2x32, ops)
        key = (
            self._host_key(stream, projections)
            if isinstance(self.step, int) and isinstance(self.seed, int)
            else self._key(stream, projections, rounds)
        )
        block = ops.reshape(ops.arange(blocks, like), (1, 1, blocks))
        pair = rounds(key, (ops.reshape(like, (1, -1, 1)), block))
        shape = (len(projections), ops.shape(like)[0], blocks)
        stacked = ops.concat([ops.reshape(word, (*shape, 1)) for word in pair], 3)
        return ops.reshape(stacked, (*shape[:2], 2 * blocks))

    def _key(self, stream: int, projections: Sequence[int], rounds: Any) -> tuple[Array, Array]:
        """The key of each projection, shape (len(projections), 1, 1), for a traced step or seed."""
        ops, like = self.ops, self.sample_ids
        seed = [ops.reshape(word, (1, 1, 1)) for word in self._seed_words()]
        stream_word = ops.reshape(ops.int32(stream, like), (1, 1, 1))
        step_word = ops.reshape(ops.int32(self.step, like), (1, 1, 1))
        key = rounds((seed[0], seed[1]), (stream_word, step_word))
        rows = ops.reshape(ops.constant(list(projections), "int32", like), (-1, 1, 1))
        derived: tuple[Array, Array] = rounds(key, (rows - rows, rows))
        return derived

    def _seed_words(self) -> tuple[Array, Array]:
        """The lower and the upper half of the seed as int32 scalars."""
        ops, seed, like = self.ops, self.seed, self.sample_ids
        if isinstance(seed, int):
            return ops.int32(_signed(seed), like), ops.int32(_signed(seed >> 32), like)
        low = ops.int32(seed, like)
        return low, ops.int32(ops.bitwise_right_shift(seed, 32), like) if ops.dtype(seed).endswith(
            "int64"
        ) else low - low

    def _host_key(self, stream: int, projections: Sequence[int]) -> tuple[Array, Array]:
        """The same for a step that the host knows, without an operation of the framework."""
        ops, like = self.ops, self.sample_ids
        mask = 0xFFFFFFFF
        base = _host_threefry((self.seed & mask, self.seed >> 32), (stream, self.step & mask))
        keys = [_host_threefry(base, (0, row)) for row in projections]
        first, second = (
            ops.constant([_signed(word) for word in words], "int32", like) for words in zip(*keys, strict=True)
        )
        return ops.reshape(first, (-1, 1, 1)), ops.reshape(second, (-1, 1, 1))

    def signs(self, stream: int, projections: Sequence[int], size: int) -> Array:
        """Independent signs, -1 or +1 with equal chance, shape (len(projections), B, size); one bit each."""
        ops = self.ops
        blocks = -(-size // 64)
        words = self._words(stream, projections, blocks)
        leading = ops.shape(words)[:2]
        bits = ops.bitwise_right_shift(ops.reshape(words, (*leading, 2 * blocks, 1)), ops.arange(32, words)) & 1
        bits = ops.reshape(bits, (*leading, 64 * blocks))[:, :, :size]
        return 1.0 - 2.0 * ops.astype(bits, "float32")

    def gaussians(self, stream: int, projections: Sequence[int], size: int) -> Array:
        """Independent normal deviates, shape (len(projections), B, size); one word each, see `gaussian_table`."""
        ops = self.ops
        words = self._words(stream, projections, -(-size // 2))[:, :, :size]
        cell = _logical_right_shift(ops, words, 21) & (GAUSSIAN_CELLS - 1)
        fraction = ops.astype(_logical_right_shift(ops, words, 9) & ((1 << _FRACTION_BITS) - 1), "float32")
        offsets = ops.constant(_OFFSETS, "float32", words)
        slopes = ops.constant(_SLOPES, "float32", words)
        half = ops.take(offsets, cell) + ops.take(slopes, cell) * fraction
        return ops.where(words < 0, -half, half)

    def integers(self, stream: int, projections: Sequence[int], bound: int) -> Array:
        """Independent integers in [0, bound) as int32, shape (len(projections), B); floor(word * bound / 2**32)."""
        ops = self.ops
        word = self._words(stream, projections, 1)[:, :, 0]
        high, low = _logical_right_shift(ops, word, 16), word & 0xFFFF
        bound_high, bound_low = bound >> 16, bound & 0xFFFF
        # The upper half of a 32 x 32 bit product from 16-bit limbs (Knuth, TAOCP 2, 4.3.1 M): int32 holds each sum.
        middle = high * bound_low + _logical_right_shift(ops, low * bound_low, 16)
        lower = low * bound_high + (middle & 0xFFFF)
        return high * bound_high + _logical_right_shift(ops, middle, 16) + _logical_right_shift(ops, lower, 16)

    def uniforms(self, stream: int, projections: Sequence[int], size: int) -> Array:
        """Independent multiples of 2**-24 in [0, 1), shape (len(projections), B, size)."""
        ops = self.ops
        words = self._words(stream, projections, -(-size // 2))[:, :, :size]
        return ops.astype(_logical_right_shift(ops, words, 8), "float32") * 2.0**-24
