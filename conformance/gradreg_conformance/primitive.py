"""Calls one primitive of a backend with NumPy arrays and compares the result with NumPy's."""

from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance.check import Disagreement
from gradreg_conformance.subject import Subject

__all__ = ["SHAPE", "call", "equal", "floating", "floats", "integers", "seeds", "to_numpy", "widest"]

seeds = st.integers(0, 999)
SHAPE = (3, 2, 4)
"""A single shape, whose axes all differ: some frameworks compile every operation again for each shape."""


def widest(subject: Subject) -> str:
    """The floating-point type of NumPy's with the most bits that the backend computes in."""
    return "float64" if "float64" in subject.harness.dtypes else "float32"


def floating(subject: Subject) -> st.SearchStrategy[str]:
    """The names of the floating-point types of NumPy's that the backend computes in, widest first."""
    return st.sampled_from([dtype for dtype in ("float64", "float32") if dtype in subject.harness.dtypes])


def floats(seed: int, shape: tuple[int, ...], dtype: str = "float64") -> np.ndarray:
    """Normal deviates."""
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def integers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Integers over the whole range of int32, its ends among them."""
    drawn = np.random.default_rng(seed).integers(-(2**31), 2**31, size=shape).astype(np.int32)
    drawn.flat[:2] = (-(2**31), 2**31 - 1)
    return drawn


def to_numpy(subject: Subject, array: Any) -> np.ndarray:
    """An array of the framework as NumPy array.

    Raises:
        Disagreement: it is not one.
    """
    if not subject.ops.is_array(array):
        raise Disagreement(f"expected an array of the framework, got {type(array).__name__}: {array!r}")
    return np.asarray(subject.harness.numpy(array))


def call(subject: Subject, name: str, *arguments: Any, **keywords: Any) -> np.ndarray:
    """The result of the primitive `name`; arguments that are NumPy arrays go in as the framework's, of their dtype."""
    given = [subject.array(value, str(value.dtype)) if isinstance(value, np.ndarray) else value for value in arguments]
    return to_numpy(subject, getattr(subject.ops, name)(*given, **keywords))


def equal(
    subject: Subject,
    name: str,
    arguments: tuple[Any, ...],
    wanted: Any,
    *,
    allowed: Any = 0.0,
    **keywords: Any,
) -> None:
    """Compare a primitive with NumPy's result.

    Args:
        subject: the backend.
        name: of the primitive.
        arguments: its arguments; NumPy arrays go in as the framework's.
        wanted: the result; shapes must be equal.
        allowed: the absolute error that rounding explains, a number or an array of the result's shape.
        keywords: further arguments.

    Raises:
        Disagreement: with the call, what was expected and what came.
    """
    result = call(subject, name, *arguments, **keywords)
    wanted = np.asarray(wanted)
    if result.shape != wanted.shape:
        raise Disagreement(f"{_shown(name, arguments, keywords)}: expected shape {wanted.shape}, got {result.shape}")
    wide = np.int64 if wanted.dtype.kind in "biu" and result.dtype.kind in "biu" else np.float64
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        error = np.abs(result.astype(wide) - wanted.astype(wide)).astype(np.float64)
        error = np.where(result == wanted, 0.0, error)  # infinities of one sign
        limit = subject.harness.tolerance * np.broadcast_to(np.asarray(allowed, np.float64), wanted.shape)
        ratio = np.where(error == 0, 0.0, np.where(limit > 0, error / limit, np.inf))
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    worst = float(ratio.max(initial=0.0))
    subject.measured.ratio(worst)
    if not worst <= 1:
        at = np.unravel_index(int(ratio.argmax()), ratio.shape)
        raise Disagreement(
            f"{_shown(name, arguments, keywords)}: expected {wanted[at]!r} at {tuple(map(int, at))}, got {result[at]!r}"
        )


def _shown(name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    given = [
        f"array({value.tolist()}, {value.dtype})" if isinstance(value, np.ndarray) else repr(value)
        for value in arguments
    ]
    return f"{name}({', '.join([*given, *(f'{key}={value!r}' for key, value in keywords.items())])})"
