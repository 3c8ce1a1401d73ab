"""Norms of J^T W for each sample, and the shapes (phi) that turn a norm into a penalty."""

from collections.abc import Sequence
from dataclasses import dataclass

from gradreg_core.backend import Array, Backend
from gradreg_core.fields import require_number
from gradreg_core.layout import one_hot

__all__ = ["NORMS", "Phi", "combine", "hinge", "identity", "partial", "safe_sqrt", "target"]

NORMS = ("l2", "l1", "linf")


def _absolute(ops: Backend, array: Array) -> Array:
    """|a| with derivative 0 at 0 in every framework (their own abs differ there)."""
    return array * ops.stop_gradient(ops.sign(array))


def _maximum(ops: Backend, array: Array) -> Array:
    """Maximum over the last axis; among equals the first has the whole derivative (frameworks' own max differ)."""
    size = ops.shape(array)[-1]
    first = one_hot(ops, ops.argmax(ops.stop_gradient(array)), size, ops.dtype(array))
    return ops.sum(ops.where(first > 0, array, 0.0), -1)


def safe_sqrt(ops: Backend, array: Array) -> Array:
    """Square root with value 0 and derivative 0 at 0, where the plain one has an infinite derivative, hence NaN."""
    positive = array > 0
    return ops.where(positive, ops.sqrt(ops.where(positive, array, 1.0)), 0.0)


def partial(ops: Backend, norm: str, gradients: Array) -> Array:
    """Rows J^T w of shape (c, B, ...) to what `combine` wants of them, shape (B,): sum of squares, sum or maximum."""
    rows, batch = ops.shape(gradients)[:2]
    flat = ops.reshape(gradients, (rows, batch, -1))
    if norm == "l2":
        return ops.sum(flat * flat, (0, 2))
    if norm == "l1":
        return ops.sum(_absolute(ops, flat), (0, 2))
    return _maximum(ops, ops.reshape(ops.moveaxis(_absolute(ops, flat), 0, 1), (batch, -1)))


def combine(ops: Backend, norm: str, squared: bool, partials: Sequence[Array]) -> Array:
    """The norm (or its square) over all rows from the `partials` of chunks of rows, shape (B,)."""
    if norm == "linf":
        size = ops.shape(partials[0])[0]
        value = _maximum(ops, ops.concat([ops.reshape(each, (size, 1)) for each in partials], 1))
    else:
        value = partials[0]
        for each in partials[1:]:
            value = value + each
    if norm == "l2":
        return value if squared else safe_sqrt(ops, value)
    return value * value if squared else value


class Phi:
    """phi: what is done with the norm n of a sample."""

    def apply(self, ops: Backend, n: Array) -> Array:
        """phi(n), element by element."""
        raise NotImplementedError


@dataclass(frozen=True)
class identity(Phi):  # noqa: N801 - shapes are the words of a specification
    """phi(n) = n."""

    def apply(self, ops: Backend, n: Array) -> Array:
        return n


@dataclass(frozen=True)
class _Threshold(Phi):
    t: float = 1.0

    def __post_init__(self) -> None:
        require_number(type(self).__name__, "t", self.t, minimum=0)


@dataclass(frozen=True)
class target(_Threshold):  # noqa: N801
    """phi(n) = (n - t)^2, as in WGAN-GP (Gulrajani et al. 2017)."""

    def apply(self, ops: Backend, n: Array) -> Array:
        return (n - self.t) * (n - self.t)


@dataclass(frozen=True)
class hinge(_Threshold):  # noqa: N801
    """phi(n) = max(0, n - t)^2: only norms above t cost anything (one-sided, Lipschitz constant t)."""

    def apply(self, ops: Backend, n: Array) -> Array:
        excess = ops.where(n > self.t, n - self.t, 0.0)
        return excess * excess
