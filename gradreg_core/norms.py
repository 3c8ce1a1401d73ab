"""Norms of J^T W per sample, and the functions phi that turn a norm into a penalty."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from operator import add
from typing import Annotated

from gradreg_core.backend import Array, Backend
from gradreg_core.fields import Checked, Number
from gradreg_core.layout import one_hot

__all__ = ["NORMS", "hinge", "identity", "target"]


def _absolute(ops: Backend, array: Array) -> Array:
    """|a| with derivative 0 at 0 in every framework (their own abs differ there)."""
    return array * ops.stop_gradient(ops.sign(array))


def _maximum(ops: Backend, array: Array) -> Array:
    """Maximum over the last axis; the first of equal entries has the whole derivative (frameworks' own max differ)."""
    size = ops.shape(array)[-1]
    constant = ops.stop_gradient(array)
    first = one_hot(ops, ops.argmax(constant), size, ops.dtype(array))
    # argmax may skip a NaN; 0 times the sum is 0 or NaN.
    return ops.sum(ops.where(first > 0, array, 0.0), -1) + ops.sum(constant * 0, -1)


def safe_sqrt(ops: Backend, array: Array) -> Array:
    """Square root with value 0 and derivative 0 at 0, where the plain root has an infinite derivative, hence NaN."""
    nothing = array <= 0  # not for a NaN, which stays one
    return ops.where(nothing, 0.0, ops.sqrt(ops.where(nothing, 1.0, array)))


class Norm(ABC):
    """A norm over all components of one sample's rows J^T w together, computed a chunk of rows at a time."""

    @abstractmethod
    def partial(self, ops: Backend, rows: Array) -> Array:
        """The partial value of a chunk of rows (c, B, size), shape (B,), for `combine`."""

    def combine(self, ops: Backend, first: Array, second: Array) -> Array:
        """The partial value of two chunks together. Default: their sum."""
        return add(first, second)

    def finish(self, ops: Backend, combined: Array, squared: bool) -> Array:
        """The norm, or its square, from the partial value of all rows. Default: the partial value is the norm."""
        return combined * combined if squared else combined

    def __call__(self, ops: Backend, chunks: Iterable[Array], squared: bool) -> Array:
        """The norm of each sample, or its square, shape (B,), from chunks of rows (c, B, ...)."""
        combined = None
        for rows in chunks:
            shape = ops.shape(rows)
            partial = self.partial(ops, rows if len(shape) == 3 else ops.reshape(rows, (*shape[:2], -1)))
            combined = partial if combined is None else self.combine(ops, combined, partial)
        return self.finish(ops, combined, squared)


class _L2(Norm):
    """Euclidean: the root of the sum of squares."""

    def partial(self, ops: Backend, rows: Array) -> Array:
        return ops.sum(rows * rows, (0, 2))

    def finish(self, ops: Backend, combined: Array, squared: bool) -> Array:
        return combined if squared else safe_sqrt(ops, combined)


class _L1(Norm):
    """The sum of absolute values."""

    def partial(self, ops: Backend, rows: Array) -> Array:
        return ops.sum(_absolute(ops, rows), (0, 2))


class _Linf(Norm):
    """The largest absolute value."""

    def partial(self, ops: Backend, rows: Array) -> Array:
        batch = ops.shape(rows)[1]
        return _maximum(ops, ops.reshape(ops.moveaxis(_absolute(ops, rows), 0, 1), (batch, -1)))

    def combine(self, ops: Backend, first: Array, second: Array) -> Array:
        columns = [ops.reshape(values, (*ops.shape(values), 1)) for values in (first, second)]
        return _maximum(ops, ops.concat(columns, 1))


NORMS: dict[str, Norm] = {"l2": _L2(), "l1": _L1(), "linf": _Linf()}
"""The norms by their names in a specification."""


class Phi(ABC):
    """The function applied to the norm n of each sample."""

    @abstractmethod
    def apply(self, ops: Backend, n: Array) -> Array:
        """phi(n), elementwise."""


@dataclass(frozen=True)
class identity(Phi):  # noqa: N801 - the words of a specification are lower case
    """phi(n) = n."""

    def apply(self, ops: Backend, n: Array) -> Array:
        return n


@dataclass(frozen=True)
class _Threshold(Checked, Phi):
    t: Annotated[float, Number(minimum=0)] = 1.0


@dataclass(frozen=True)
class target(_Threshold):  # noqa: N801
    """phi(n) = (n - t)^2, as in WGAN-GP (Gulrajani et al. 2017)."""

    def apply(self, ops: Backend, n: Array) -> Array:
        return (n - self.t) * (n - self.t)


@dataclass(frozen=True)
class hinge(_Threshold):  # noqa: N801
    """phi(n) = max(0, n - t)^2: norms up to t cost nothing (one-sided; t is a Lipschitz constant)."""

    def apply(self, ops: Backend, n: Array) -> Array:
        excess = ops.where(n <= self.t, 0.0, n - self.t)  # a NaN stays one
        return excess * excess
