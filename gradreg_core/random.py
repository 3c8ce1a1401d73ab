"""Draws as pure functions of (seed, step, global sample id, projection, logit), identical in every framework.

The generator is Threefry-2x32-20 (:mod:`gradreg_core.threefry`), made of 32-bit add, xor, shift and mask. Keys are
derived so that no draw depends on the batch:

    key     = threefry(threefry(seed, (stream, step)), (0, projection))
    counter = (sample id, block)

Words, signs, picks and Gaussians are bit-identical in all frameworks, eager and compiled, on every device.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

from gradreg_core.backend import Array, Backend, DrawPrimitives
from gradreg_core.host_draws import HostPrimitives
from gradreg_core.threefry import MASK, int_rounds

__all__ = [
    "GAUSSIAN_CELLS",
    "STREAM_DIRECTION",
    "STREAM_START",
    "STREAM_SUBSET",
    "Draws",
    "gaussian_table",
    "make_draws",
    "numbered",
]

STREAM_DIRECTION = 0
STREAM_SUBSET = 1
STREAM_START = 2

GAUSSIAN_CELLS = 1024
_FRACTION_BITS = 12


def _logical_right_shift(ops: DrawPrimitives, array: Array, bits: Any) -> Array:
    """Shift right and fill with zeros; int32 has only the arithmetic shift in some frameworks. 0 < bits < 32."""
    return ops.bitwise_right_shift(array, bits) & ((1 << (32 - bits)) - 1)


def _signed(word: int) -> int:
    """An unsigned 32-bit word as the int32 with the same bits."""
    return (word + 2**31) % 2**32 - 2**31


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
    wanted = GAUSSIAN_CELLS - math.fsum(second_moment(*cell) for cell in lines)
    low, high = ends[-1], 8.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if second_moment(*line(ends[-1], middle)) < wanted else (low, middle)
    lines.append(line(ends[-1], high))
    return tuple(offset for offset, _ in lines), tuple(slope for _, slope in lines)


_OFFSETS, _SLOPES = gaussian_table()
_HOST_LINES = np.asarray(_OFFSETS, np.float32), np.asarray(_SLOPES, np.float32)
_HOST = HostPrimitives()
_NOTHING = np.empty(0)
_AHEAD: dict[Any, tuple[int, np.ndarray]] = {}
"""Arguments of a request -> (a step, its draws and those of the following steps)."""
_STEPS_AHEAD, _KEYS_AHEAD, _MOST_OF_STEP = 16, 16, 2**14
"""The rounds on a few hundred numbers take half as long as on sixteen times as many: an eighth per step."""


@dataclass
class Draws:
    """The draws of one call: bound to a backend's primitives, a seed, a step and the sample ids.

    `seed` is an int in [0, 2**64) or a (traced) integer scalar. So is `step`; its low 32 bits count.
    `sample_ids` is an int32 array (B,). Results are float32 unless a method says otherwise; projections index the first
    axis.
    """

    ops: DrawPrimitives
    seed: Any
    step: Any
    sample_ids: Array
    steps: Sequence[int] = field(default=(), kw_only=True)
    """Steps on the host whose draws are made together, along the first axis, in place of the one `step`."""

    def words(self, stream: int, projections: Sequence[int], blocks: int) -> Array:
        """Random 32-bit words as int32, shape (len(projections), B, 2 * blocks)."""
        return self._finished(self._words(stream, projections, blocks))

    def _finished(self, drawn: Array) -> Array:
        """`drawn` as an array of the caller's framework."""
        return drawn

    def _words(self, stream: int, projections: Sequence[int], blocks: int) -> Array:
        ops, like = self.ops, self.sample_ids
        on_host = isinstance(self.step, int) and isinstance(self.seed, int)
        key = (self._host_key if on_host else self._key)(stream, projections)
        rows = ops.shape(key[0])[0]
        block = ops.reshape(ops.arange(blocks, like), (1, 1, blocks))
        pair = ops.threefry2x32(key, (ops.reshape(like, (1, -1, 1)), block))
        shape = (rows, ops.shape(like)[0], blocks)
        stacked = ops.concat([ops.reshape(pair[0], (*shape, 1)), ops.reshape(pair[1], (*shape, 1))], 3)
        return ops.reshape(stacked, (*shape[:2], 2 * blocks))

    def _key(self, stream: int, projections: Sequence[int]) -> tuple[Array, Array]:
        """The key of each projection, shape (len(projections), 1, 1), for a traced step or seed."""
        ops, like = self.ops, self.sample_ids
        seed = [ops.reshape(word, (1, 1, 1)) for word in self._seed_words()]
        stream_word = ops.reshape(ops.int32(stream, like), (1, 1, 1))
        step_word = ops.reshape(ops.int32(self.step, like), (1, 1, 1))
        key = ops.threefry2x32((seed[0], seed[1]), (stream_word, step_word))
        rows = ops.reshape(ops.constant(list(projections), "int32", like), (-1, 1, 1))
        return ops.threefry2x32(key, (rows - rows, rows))

    def _seed_words(self) -> tuple[Array, Array]:
        """The lower and the upper half of the seed as int32 scalars."""
        ops, seed, like = self.ops, self.seed, self.sample_ids
        if isinstance(seed, int):
            return ops.int32(_signed(seed), like), ops.int32(_signed(seed >> 32), like)
        low = ops.int32(seed, like)
        if not ops.dtype(seed).endswith("int64"):
            return low, low - low
        return low, ops.int32(ops.bitwise_right_shift(seed, 32), like)

    def _host_key(self, stream: int, projections: Sequence[int]) -> tuple[Array, Array]:
        """The same for a step that the host knows, without an operation of the framework."""
        ops, like = self.ops, self.sample_ids
        first: list[list[list[int]]] = []
        second: list[list[list[int]]] = []
        for step in self.steps or (self.step,):
            base = int_rounds((self.seed & MASK, self.seed >> 32), (stream, step & MASK))
            for row in projections:
                words = int_rounds(base, (0, row))
                first.append([[_signed(words[0])]])
                second.append([[_signed(words[1])]])
        return ops.constant(first, "int32", like), ops.constant(second, "int32", like)

    def signs(self, stream: int, projections: Sequence[int], size: int) -> Array:
        """Independent signs, -1 or +1 with equal chance, shape (len(projections), B, size); one bit each."""
        ops = self.ops
        blocks = -(-size // 64)
        words = self._words(stream, projections, blocks)
        leading = ops.shape(words)[:2]
        places = ops.reshape(ops.arange(32, words), (1, 1, 1, 32))
        bits = ops.bitwise_right_shift(ops.reshape(words, (*leading, 2 * blocks, 1)), places) & 1
        bits = ops.reshape(bits, (*leading, 64 * blocks))[:, :, :size]
        return self._finished(1.0 - 2.0 * ops.astype(bits, "float32"))

    def gaussians(self, stream: int, projections: Sequence[int], size: int) -> Array:
        """Independent normal deviates, shape (len(projections), B, size); one word each, see `gaussian_table`."""
        ops = self.ops
        words = self._words(stream, projections, -(-size // 2))[:, :, :size]
        cell = _logical_right_shift(ops, words, 21) & (GAUSSIAN_CELLS - 1)
        fraction = ops.astype(_logical_right_shift(ops, words, 9) & ((1 << _FRACTION_BITS) - 1), "float32")
        offsets, slopes = self._lines(words)
        half = ops.take(offsets, cell) + ops.take(slopes, cell) * fraction
        return self._finished(ops.where(words < 0, -half, half))

    def _lines(self, like: Array) -> tuple[Array, Array]:
        return self.ops.constant(_OFFSETS, "float32", like), self.ops.constant(_SLOPES, "float32", like)

    def integers(self, stream: int, projections: Sequence[int], bound: int) -> Array:
        """Independent integers in [0, bound) as int32, shape (len(projections), B); floor(word * bound / 2**32)."""
        ops = self.ops
        word = self._words(stream, projections, 1)[:, :, 0]
        high, low = _logical_right_shift(ops, word, 16), word & 0xFFFF
        bound_high, bound_low = bound >> 16, bound & 0xFFFF
        # The upper half of a 32 x 32 bit product from 16-bit limbs (Knuth, TAOCP 2, 4.3.1 M): int32 holds each sum.
        middle = high * bound_low + _logical_right_shift(ops, low * bound_low, 16)
        lower = low * bound_high + (middle & 0xFFFF)
        carries = _logical_right_shift(ops, middle, 16) + _logical_right_shift(ops, lower, 16)
        return self._finished(high * bound_high + carries)

    def uniforms(self, stream: int, projections: Sequence[int], size: int) -> Array:
        """Independent multiples of 2**-24 in [0, 1), shape (len(projections), B, size)."""
        ops = self.ops
        words = self._words(stream, projections, -(-size // 2))[:, :, :size]
        return self._finished(ops.astype(_logical_right_shift(ops, words, 8), "float32") * 2.0**-24)


@dataclass
class _HostDraws(Draws):
    """Draws computed by NumPy and returned as arrays of a framework."""

    native: Callable[[np.ndarray], Array]

    def words(self, stream: int, projections: Sequence[int], blocks: int) -> Array:
        return self.native(self._of_step(Draws.words, stream, projections, blocks))

    def signs(self, stream: int, projections: Sequence[int], size: int) -> Array:
        return self.native(self._of_step(Draws.signs, stream, projections, size))

    def gaussians(self, stream: int, projections: Sequence[int], size: int) -> Array:
        return self.native(self._of_step(Draws.gaussians, stream, projections, size))

    def integers(self, stream: int, projections: Sequence[int], bound: int) -> Array:
        return self.native(self._of_step(Draws.integers, stream, projections, bound))

    def uniforms(self, stream: int, projections: Sequence[int], size: int) -> Array:
        return self.native(self._of_step(Draws.uniforms, stream, projections, size))

    def _lines(self, like: Array) -> tuple[Array, Array]:
        return _HOST_LINES

    def _of_step(self, kind: Callable[..., Array], stream: int, projections: Sequence[int], size: int) -> np.ndarray:
        """The draws of this step. If the step before requested the same, the next steps' draws are made at once.

        A draw is a pure function of its key, so kept draws cannot be out of date.
        """
        key = (kind, self.seed, stream, tuple(projections), size, self.sample_ids.tobytes())
        first, kept = _AHEAD.get(key, (self.step, _NOTHING))
        offset = self.step - first
        if not 0 <= offset < len(kept):
            ahead = _STEPS_AHEAD if offset == len(kept) > 0 else 1
            steps = range(self.step, self.step + ahead)
            drawn: np.ndarray = kind(replace(self, steps=steps), stream, projections, size)
            if drawn.size > ahead * _MOST_OF_STEP:
                return drawn
            first, offset, kept = self.step, 0, drawn.reshape(ahead, len(projections), *drawn.shape[1:])
            kept.flags.writeable = False  # so that a framework copies it
            if len(_AHEAD) >= _KEYS_AHEAD:
                _AHEAD.clear()
            _AHEAD[key] = first, kept
        of_step: np.ndarray = kept[offset]
        return of_step


@lru_cache(maxsize=16)
def numbered(batch: int) -> np.ndarray:
    """The numbers 0..batch-1 of samples, on the host; read only."""
    ids = np.arange(batch, dtype=np.int32)
    ids.flags.writeable = False
    return ids


def make_draws(ops: Backend, seed: Any, step: Any, sample_ids: Array, like: Array | None = None) -> Draws:
    """The draws of a term, computed by NumPy if the host has everything that they depend on.

    Args:
        ops: the backend.
        seed: see :class:`Draws`.
        step: see :class:`Draws`.
        sample_ids: see :class:`Draws`; also on the host, see :func:`numbered`.
        like: an array on the device of the draws; default: `sample_ids`.
    """
    like = sample_ids if like is None else like
    if isinstance(seed, int) and isinstance(step, int):
        host_ids = sample_ids if isinstance(sample_ids, np.ndarray) else ops.values_if_free(sample_ids)
        if host_ids is not None:
            return _HostDraws(_HOST, seed, step, host_ids, lambda drawn: ops.asarray(drawn, like))
    if isinstance(sample_ids, np.ndarray):
        sample_ids = ops.asarray(sample_ids, like)
    return Draws(ops, seed, step, sample_ids)
