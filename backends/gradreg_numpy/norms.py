"""Norms of all components of a sample's J^T W, and phi of a norm; derivatives at a kink are those of gradreg_core."""

from collections.abc import Callable
from functools import singledispatch

import numpy as np

from gradreg_core.errors import UnsupportedError
from gradreg_core.norms import Phi, hinge, identity, target
from gradreg_numpy.functions import Array

__all__ = ["NORMS", "phi_of"]


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
    """The largest absolute value; among equals the first has the derivative."""
    absolute = _absolute(flat)
    largest = absolute[np.arange(len(flat)), absolute.real.argmax(axis=1)]
    return np.asarray(largest * largest if squared else largest)


NORMS: dict[str, Callable[[Array, bool], Array]] = {"l2": _l2, "l1": _l1, "linf": _linf}
"""The norms by their name in a specification: from components (B, n) and `squared` to values (B,)."""


@singledispatch
def phi_of(phi: Phi, n: Array) -> Array:
    """phi(n) for norms n (B,).

    Raises:
        UnsupportedError: a phi without a rule.
    """
    raise UnsupportedError(f"gradreg_numpy: no rule for phi={phi!r}.")


@phi_of.register
def _(phi: identity, n: Array) -> Array:
    return n


@phi_of.register
def _(phi: target, n: Array) -> Array:
    return np.asarray((n - phi.t) ** 2)


@phi_of.register
def _(phi: hinge, n: Array) -> Array:
    return np.asarray(np.where(n.real > phi.t, n - phi.t, 0.0) ** 2)
