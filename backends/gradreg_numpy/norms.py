"""Norms of all components of a sample's J^T W, and phi of a norm; derivatives at a kink as in gradreg_core."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gradreg_core.norms import Phi, hinge, identity, target
from gradreg_numpy.functions import Array

__all__ = ["NORMS", "PHIS"]


def _l2(flat: Array, squared: bool) -> Array:
    """The root of the sum of squares; at 0 its value and derivative are 0."""
    square = (flat * flat).sum(axis=1)
    if squared:
        return np.asarray(square)
    positive = square.real > 0
    return np.where(positive, np.sqrt(np.where(positive, square, 1.0)), 0.0)


def _absolute(flat: Array) -> Array:
    return np.asarray(flat * np.sign(flat.real))


def _l1(flat: Array, squared: bool) -> Array:
    total = _absolute(flat).sum(axis=1)
    return np.asarray(total * total if squared else total)


def _linf(flat: Array, squared: bool) -> Array:
    """The largest absolute value; among equals, the first has the derivative."""
    absolute = _absolute(flat)
    largest = absolute[np.arange(len(flat)), absolute.real.argmax(axis=1)]
    return np.asarray(largest * largest if squared else largest)


NORMS: dict[str, Callable[[Array, bool], Array]] = {"l2": _l2, "l1": _l1, "linf": _linf}
"""The norms by their name in a specification: from components (B, n) and `squared` to values (B,)."""


PHIS: dict[type[Phi], Callable[[Any, Array], Array]] = {
    identity: lambda phi, n: n,
    target: lambda phi, n: (n - phi.t) ** 2,
    hinge: lambda phi, n: np.where(n.real > phi.t, n - phi.t, 0.0) ** 2,
}
"""phi(n) for norms n (B,), by class of phi."""
