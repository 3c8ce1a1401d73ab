"""L1: primitives of arrays with more elements than a vector unit, a block or a small integer has, and at extremes.

Algorithms change with the size: of a sort above 16 elements, of a sum above 8 or 128, of a matrix product above 4.
"""

from typing import Any

import numpy as np

from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.primitive import equal, floats, to_numpy, widest
from gradreg_conformance.reference import error_ratio
from gradreg_conformance.subject import Subject

_SIZES = (65, 300)
_EXTREMES = (-1e4, -800.0, -100.0, -30.0, -1.0, 0.0, 0.5, 30.0, 100.0, 800.0, 1e4)


def _unit(dtype: str) -> float:
    return float(np.finfo(dtype).eps) / 2


@check("primitives")
def arrays_of_many_elements(subject: Subject) -> None:
    """Sums, sorts, products, softmax, cross-entropy and eigenvalues are NumPy's for 65 and 300 elements too."""
    dtype = widest(subject)
    u = _unit(dtype)
    for size in _SIZES:
        a = floats(size, (2, 3, size), dtype)
        wide = a.astype(np.float64)
        subject.measured.examples += 1
        for axis in (-1, (0, 2)):
            allowed = size * u * np.abs(wide).sum(axis)
            equal(subject, "sum", (a, axis), wide.sum(axis), allowed=allowed)
        allowed = size * u * np.abs(wide).sum() / size
        equal(subject, "mean", (a.ravel(),), wide.mean(), allowed=allowed)
        allowed = size * u * np.cumsum(np.abs(wide), -1)
        equal(subject, "cumulative_sum", (a,), np.cumsum(wide, -1), allowed=allowed)
        ties = np.round(a)  # many equal numbers, which keep their order
        equal(subject, "argsort", (ties,), np.argsort(ties, -1, kind="stable"))
        equal(subject, "argmax", (ties,), ties.argmax(-1))
        wanted = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
        equal(subject, "softmax", (a,), wanted, allowed=(32 + size) * u * wanted)
        equal(subject, "log_softmax", (a,), np.log(wanted), allowed=(32 + size) * u * (1 + np.abs(np.log(wanted))))
        labels = np.array([[size - 1, 0, size // 2], [size - 2, 1, size - 1]])
        wanted = -np.take_along_axis(np.log(wanted), labels[..., None], -1)[..., 0]
        given = subject.array(labels, "int64")
        equal(subject, "cross_entropy", (a, given), wanted, allowed=(32 + size) * u * wanted)
        equal(subject, "take", (a[0].T.copy(), np.arange(size - 1, -1, -3, dtype=np.int32)), a[0].T[::-3])
    left, right = floats(1, (2, 9, 33), dtype), floats(2, (2, 33, 5), dtype)
    size = np.abs(left.astype(np.float64)) @ np.abs(right)
    equal(subject, "matmul", (left, right), left.astype(np.float64) @ right, allowed=33 * u * size)
    gram = left @ np.swapaxes(left, 1, 2)
    values = np.linalg.eigvalsh(gram.astype(np.float64))
    equal(subject, "eigvalsh", (gram,), values, allowed=64 * u * np.abs(values).max(-1, keepdims=True))


def _close(subject: Subject, label: str, result: Any, wanted: np.ndarray, allowed: Any) -> None:
    numbers = to_numpy(subject, result).astype(np.float64)
    if numbers.shape != wanted.shape:
        raise Disagreement(f"{label}: expected shape {wanted.shape}, got {numbers.shape}")
    limit = np.broadcast_to(np.asarray(allowed) * subject.harness.tolerance, wanted.shape)
    errors = np.abs(numbers - wanted).ravel()
    ratio = max(error_ratio(float(error), float(most)) for error, most in zip(errors, limit.ravel(), strict=True))
    subject.measured.ratio(ratio)
    if not ratio <= 1:
        raise Disagreement(f"{label}: expected {wanted!r}, got {numbers!r}")


def _slopes(subject: Subject, f: Any, arrays: dict[str, np.ndarray], dtype: str) -> Any:
    """(value, gradients) of f, a function of the framework's arrays by name."""
    given = {name: subject.array(array, dtype) for name, array in arrays.items()}
    return subject.harness.value_and_gradients(f, given, subject.mode)


@check("primitives")
def equal_indices_add_their_gradients(subject: Subject) -> None:
    """The gradient of take is the sum over equal indices, and that of a reordering goes to its place."""
    ops, dtype = subject.ops, widest(subject)
    indices = np.array([[4, 0, 4], [1, 4, 0]], np.int32)
    a, weight = floats(3, (6, 2), dtype), floats(4, (2, 3, 2), dtype)

    def function(arrays: Any) -> Any:
        taken = ops.take(arrays["a"], subject.array(indices, "int32"))
        return ops.sum(taken * subject.array(weight, dtype), (0, 1, 2))

    wanted = np.zeros((6, 2))
    np.add.at(wanted, indices, weight)
    _, slopes = _slopes(subject, function, {"a": a}, dtype)
    _close(subject, f"the gradient of take at {indices.tolist()}", slopes["a"], wanted, 8 * _unit(dtype) * 4)


@check("primitives")
def many_rows_are_pulled_back(subject: Subject) -> None:
    """pull_rows of 40 rows gives each its own, and carries gradients, as the Jacobian of many outputs needs."""
    ops, dtype = subject.ops, widest(subject)
    x, rows = floats(5, (2, 3), dtype), floats(6, (40, 2, 3), dtype)

    def function(arrays: Any) -> Any:
        _, pullback = ops.vjp(lambda value: value * value * value, arrays["x"])
        pulled = ops.pull_rows(pullback, arrays["w"])
        return ops.sum(pulled * subject.array(rows[::-1].copy(), dtype), (0, 1, 2))

    total = (rows * rows[::-1]).astype(np.float64).sum(0)
    wanted = {"x": 6 * x * total, "w": 3 * x.astype(np.float64) ** 2 * rows[::-1]}
    _, slopes = _slopes(subject, function, {"x": x, "w": rows}, dtype)
    for name, slope in wanted.items():
        _close(subject, f"d/d{name} of 40 rows", slopes[name], slope, 64 * _unit(dtype) * np.abs(slope).max())


@check("primitives")
def derivatives_at_extremes(subject: Subject) -> None:
    """First and second derivatives of sigmoid, softplus, softmax and log_softmax are right from -10000 to 10000."""
    a = np.array(_EXTREMES, widest(subject))
    x = a.astype(np.float64)
    small = np.exp(-np.abs(x))
    s, rest = np.where(x >= 0, 1, small) / (1 + small), np.where(x >= 0, small, 1) / (1 + small)
    _twice(subject, "sigmoid", a, s * rest, s * rest * (rest - s))
    _twice(subject, "softplus", a, s, s * rest)
    # Of a pair (x, 0) the softmax is (s, 1 - s), and so depends on the difference of the two alone.
    pairs = np.stack([a, np.zeros_like(a)], -1)
    apart = np.array([1.0, -1.0])
    _twice(subject, "softmax", pairs, 2 * s * rest, 2 * (s * rest * (rest - s))[:, None] * apart)
    _twice(subject, "log_softmax", pairs, 2 * rest, -2 * (s * rest)[:, None] * apart)


def _twice(subject: Subject, name: str, a: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Compare the sum of the slopes of the first element, over (1, -1) for a pair, and the gradient of that sum."""
    ops, dtype, signs = subject.ops, str(a.dtype), np.ones_like(a)
    cotangent = np.ones_like(a)
    if a.ndim > 1:
        cotangent[:, 1], signs[:, 1] = 0.0, -1.0

    def function(arrays: Any) -> Any:
        _, pullback = ops.vjp(lambda value: getattr(ops, name)(value), arrays["a"])
        pulled = pullback(subject.array(cotangent, dtype))
        return ops.sum(pulled * subject.array(signs, dtype), tuple(range(a.ndim)))

    subject.measured.examples += 1
    value, slopes = _slopes(subject, function, {"a": a}, dtype)
    allowed = 64 * _unit(dtype) * len(a)
    _close(subject, f"the sum of the derivatives of {name} at {a.tolist()}", value, first.sum(), allowed)
    _close(subject, f"the second derivative of {name} at {a.tolist()}", slopes["a"], second, allowed)
