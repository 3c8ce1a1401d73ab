"""L1: arithmetic, against NumPy."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.primitive import SHAPE, equal, floating, floats, integers, seeds, to_numpy, widest
from gradreg_conformance.subject import Subject

_EXTREMES = (0.0, 1e-8, 0.5, 9.0, 16.5, 21.0, 30.0, 41.0, 88.0, 100.0, 745.0, 1e3, 1e4)


def _unit(dtype: str) -> float:
    return float(np.finfo(dtype).eps) / 2


@check("primitives")
def integers_wrap_around(subject: Subject) -> None:
    """int32 arithmetic wraps around; a left shift ignores the sign bit, a right shift copies it."""

    @subject.given(seeds, st.integers(1, 31))
    def _(seed, bits):  # type: ignore[no-untyped-def]
        a, b = integers(seed, SHAPE), integers(seed + 1, SHAPE)[::-1, ::-1, ::-1].copy()
        left, right = subject.array(a, "int32"), subject.array(b, "int32")
        for formula, result, wanted in (
            ("a + b", left + right, a + b),
            ("a - b", left - right, a - b),
            ("a * b", left * right, a * b),
            ("a ^ b", left ^ right, a ^ b),
            ("a & b", left & right, a & b),
            ("a | b", left | right, a | b),
            ("a + 5", left + 5, a + np.int32(5)),
            ("a & 0xFFFF", left & 0xFFFF, a & np.int32(0xFFFF)),
        ):
            numbers = to_numpy(subject, result)
            if numbers.dtype != np.int32 or not np.array_equal(numbers, wanted):
                raise Disagreement(f"{formula} of int32 a = {a!r}, b = {b!r}: expected {wanted!r}, got {numbers!r}")
        for count in (bits, 1, 31):
            equal(subject, "bitwise_left_shift", (a, count), np.left_shift(a, np.int32(count)))
            equal(subject, "bitwise_right_shift", (a, count), np.right_shift(a, np.int32(count)))
        counts = np.arange(32, dtype=np.int32)
        spread = a.reshape(-1, 1)
        equal(subject, "bitwise_right_shift", (spread, counts), np.right_shift(spread, counts))
        equal(subject, "bitwise_left_shift", (spread, counts), np.left_shift(spread, counts))


@check("primitives")
def arithmetic_equals_numpy(subject: Subject) -> None:
    """where, sum, sqrt, sign, cumulative_sum, matmul and eigvalsh give NumPy's numbers over every axis."""

    @subject.given(seeds, floating(subject))
    def _(seed, dtype):  # type: ignore[no-untyped-def]
        a, u = floats(seed, SHAPE, dtype), _unit(dtype)
        wide, n = a.astype(np.float64), a.size
        positive = subject.array(a, dtype) > 0
        equal(subject, "where", (positive, a, 0.5), np.where(a > 0, a, 0.5))
        equal(subject, "where", (positive, -2.0, a), np.where(a > 0, -2.0, a))
        equal(subject, "where", (positive, a, 2 * a), np.where(a > 0, a, 2 * a))
        sums: tuple[Any, ...] = ((1, False), (-1, True), ((0, 2), False), ((1, 2), True), ((0, 1, 2), False))
        for axis, keepdims in sums:
            wanted = wide.sum(axis, keepdims=keepdims)
            allowed = n * u * np.abs(wide).sum(axis, keepdims=keepdims)
            equal(subject, "sum", (a, axis), wanted, allowed=allowed, keepdims=keepdims)
        equal(subject, "sqrt", (np.abs(a),), np.sqrt(np.abs(wide)), allowed=4 * u * np.abs(wide) ** 0.5)
        signs = np.concatenate([a.ravel(), np.array([0.0, -0.0], dtype)])
        equal(subject, "sign", (signs,), np.sign(signs))
        allowed = n * u * np.cumsum(np.abs(wide), -1)
        equal(subject, "cumulative_sum", (a,), np.cumsum(wide, -1), allowed=allowed)
        b = floats(seed + 1, (3, 4, 2), dtype)
        size = np.abs(wide) @ np.abs(b.astype(np.float64))
        equal(subject, "matmul", (a, b), wide @ b.astype(np.float64), allowed=4 * u * size)
        equal(subject, "matmul", (a[0], b[0]), (wide @ b.astype(np.float64))[0], allowed=4 * u * size[0])
        gram = a @ np.swapaxes(a, 1, 2)
        values = np.linalg.eigvalsh(gram.astype(np.float64))
        equal(subject, "eigvalsh", (gram,), values, allowed=32 * u * np.abs(values).max(-1, keepdims=True))


@check("primitives")
def equals_keep_their_order(subject: Subject) -> None:
    """The argmax is the first of equal values, argsort keeps equal values in their order."""
    dtype = widest(subject)

    @subject.given(st.lists(st.integers(0, 2), min_size=24, max_size=24))
    def _(numbers):  # type: ignore[no-untyped-def]
        values = np.array([*numbers[:12], *sorted(numbers[12:])], dtype).reshape(2, 2, 6) - 1
        equal(subject, "argmax", (values,), values.argmax(-1))
        equal(subject, "argsort", (values,), np.argsort(values, -1, kind="stable"))


@check("primitives")
def extremes_neither_overflow_nor_round(subject: Subject) -> None:
    """softmax, log_softmax, sigmoid and softplus are right to rounding at arguments from -10000 to 10000."""

    @subject.given(seeds, floating(subject))
    def _(seed, dtype):  # type: ignore[no-untyped-def]
        # Exponentials may underflow to 0 a little before the range of normal numbers ends.
        u, tiny = _unit(dtype), 4 * float(np.finfo(dtype).tiny)
        drawn = floats(seed, (4,), dtype) * 30
        a = np.concatenate([drawn, np.array(_EXTREMES, dtype), -np.array(_EXTREMES, dtype)])
        x = a.astype(np.float64)
        small = np.exp(-np.abs(x))
        wanted = np.where(x >= 0, 1, small) / (1 + small)
        equal(subject, "sigmoid", (a,), wanted, allowed=32 * u * wanted + tiny)
        wanted = np.maximum(x, 0) + np.log1p(small)
        equal(subject, "softplus", (a,), wanted, allowed=32 * u * wanted + tiny)
        pairs = np.stack([a, np.roll(a, 1), np.roll(a, 5)], -1)
        # Of an exponential of a difference, half a unit of the difference is lost in forming it.
        apart = pairs.astype(np.float64) - pairs.max(-1, keepdims=True).astype(np.float64)
        total = np.exp(apart).sum(-1, keepdims=True)
        wanted = np.exp(apart) / total
        equal(subject, "softmax", (pairs,), wanted, allowed=(32 + 2 * np.abs(apart)) * u * wanted + tiny)
        wanted = apart - np.log(total)
        scale = np.abs(pairs).max(-1, keepdims=True).astype(np.float64) + np.abs(apart) + 1
        equal(subject, "log_softmax", (pairs,), wanted, allowed=8 * u * scale)


@check("primitives")
def arguments_are_not_changed(subject: Subject) -> None:
    """No primitive writes into the arrays that it is given."""
    dtype = widest(subject)

    @subject.given(seeds)
    def _(seed):  # type: ignore[no-untyped-def]
        a, n = floats(seed, (3, 3), dtype), integers(seed, (3, 3))
        a = a + a.T
        names = ("sqrt", "sign", "argmax", "argsort", "cumulative_sum", "softmax", "log_softmax", "sigmoid", "softplus")
        calls: list[tuple[str, tuple[Any, ...]]] = [(name, ()) for name in (*names, "eigvalsh", "stop_gradient")]
        calls += [("reshape", ((9,),)), ("moveaxis", (0, 1)), ("sum", (0,)), ("astype", ("float32",))]
        for name, more in calls:
            _kept(subject, name, np.abs(a) if name == "sqrt" else a, more)
        for name in ("bitwise_left_shift", "bitwise_right_shift"):
            _kept(subject, name, n, (3,))


def _kept(subject: Subject, name: str, values: np.ndarray, more: tuple[Any, ...]) -> None:
    array = subject.array(values, str(values.dtype))
    getattr(subject.ops, name)(array, *more)
    after = subject.harness.numpy(array)
    if not np.array_equal(after, values):
        raise Disagreement(f"{name} changed its argument {values!r} to {after!r}")
