"""Projections: the directions W_i in output space that the Jacobian is multiplied by.

Every projection is a small frozen value. `directions` returns its rows for a batch; random rows are scaled by
1 / sqrt(k), so that the sum of squares over k rows is a mean, and k only lowers the variance.
Notation: m is the number of logits of one sample (all positions together if the output has more axes).

References: Varga, Csiszarik, Zombori 2017, section 2 (gaussian, sphere, exact); their experiments (onehot,
random_onehot, top_k); Hoffman, Roberts, Yaida 2019 (sphere and its factor m); Hutchinson 1990 (rademacher).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from gradreg_core.backend import Array, Backend, Pullback
from gradreg_core.errors import InputError, SpecError
from gradreg_core.fields import Boolean, Checked, Integer
from gradreg_core.labels import Target
from gradreg_core.layout import one_hot
from gradreg_core.random import STREAM_DIRECTION, STREAM_START, Draws

__all__ = [
    "direction",
    "exact",
    "fisher",
    "gaussian",
    "onehot",
    "ones",
    "orthonormal",
    "rademacher",
    "random_onehot",
    "sphere",
    "top_k",
    "top_singular",
]


@dataclass
class DirectionContext:
    """The inputs of a projection: shapes, probabilities, labels, draws and the pullback of the projected output."""

    ops: Backend
    shape: tuple[int, int, int]
    """(B, positions, classes) of the output that is projected."""
    logits: Array
    """(B, positions, classes), in the dtype that W must have."""
    probabilities: Callable[[], Array]
    target: Callable[[], Target]
    make_draws: Callable[[], Draws]
    pullback: Pullback
    given: Any = None
    mask: Array | None = None
    """(B, m), 1 where a component counts and 0 where its position is left out; None if all count."""
    position_share: Array | None = None
    """(B, positions), the share of each position in its sample's loss; None if all have the same."""
    components: str = "outputs"
    """The word for the components in messages: "outputs" or "input components"."""

    @property
    def draws(self) -> Draws:
        """The term's draws; only projections that use them pay for them."""
        return self.make_draws()

    @property
    def size(self) -> int:
        """The number of output components of one sample."""
        return self.shape[1] * self.shape[2]

    @property
    def counted(self) -> Array:
        """The number of components of each sample that count, (B, 1), at least 1."""
        assert self.mask is not None
        total = self.ops.sum(self.mask, 1, keepdims=True)
        return self.ops.where(total > 0, total, 1.0)

    def kept(self, rows: Array) -> Array:
        """Rows (k, B, m) without the components that are left out."""
        return rows if self.mask is None else rows * self.mask

    def rows(self, flat: Array) -> Array:
        """Rows (k, B or 1, m) as (k, B, positions, classes) in the dtype of the logits."""
        ops = self.ops
        count, batch, _ = ops.shape(flat)
        if batch != self.shape[0]:
            flat = ops.broadcast_to(flat, (count, self.shape[0], self.size))
        dtype = ops.dtype(self.logits)
        return ops.reshape(flat if ops.dtype(flat) == dtype else ops.astype(flat, dtype), (count, *self.shape))


class Projection(ABC):
    """A choice of directions in output space."""

    needs_classes: ClassVar[bool] = False
    """Whether it needs to know which axis of the output holds the classes."""
    on_input_side: ClassVar[bool] = False
    """Whether its rows make sense in input space, because they depend on its size alone."""
    constant: ClassVar[bool] = True
    """Whether its rows count as constants in differentiation."""

    def count(self, size: int) -> int:
        """The number of rows k for m = size."""
        return 1

    @abstractmethod
    def directions(self, context: DirectionContext, rows: range) -> Array:
        """Rows `rows` of W, shape (len(rows), B, positions, classes)."""


@dataclass(frozen=True)
class exact(Projection):  # noqa: N801 - projections are the words of a specification
    """All m basis vectors: ||J^T W|| is the norm of the Jacobian itself. Costs m backward passes."""

    on_input_side: ClassVar[bool] = True

    def count(self, size: int) -> int:
        return size

    def directions(self, context: DirectionContext, rows: range) -> Array:
        ops = context.ops
        if context.size == 1:  # the loss
            one = ops.constant([[[[1.0]]]], ops.dtype(context.logits), context.logits)
            return ops.broadcast_to(one, (1, *context.shape))
        indices = ops.constant(list(rows), "int32", context.logits)
        basis = one_hot(ops, indices, context.size, ops.dtype(context.logits))
        return context.rows(ops.reshape(basis, (len(rows), 1, context.size)))


@dataclass(frozen=True)
class _Random(Checked, Projection):
    """k independent random rows, averaged."""

    on_input_side: ClassVar[bool] = True

    k: Annotated[int, Integer(minimum=1)] = 1

    def count(self, size: int) -> int:
        return self.k

    def _averaged(self, rows: Array) -> Array:
        return rows if self.k == 1 else rows * (1 / math.sqrt(self.k))


def unit(ops: Backend, rows: Array) -> Array:
    """Rows divided by their length over the last axis; a row of zeros stays zero, one that overflows is NaN."""
    square = ops.sum(rows * rows, -1, keepdims=True)
    length = ops.sqrt(ops.where(square == 0, 1.0, square))
    return rows / ops.where(length < math.inf, length, math.nan)  # an overflowed length is not a length


@dataclass(frozen=True)
class gaussian(_Random):  # noqa: N801
    """k rows r ~ N(0, I_m), unnormalised, divided by sqrt(k): E ||J^T W||^2 = ||J||_F^2."""

    def directions(self, context: DirectionContext, rows: range) -> Array:
        drawn = context.draws.gaussians(STREAM_DIRECTION, rows, context.size)
        return self._averaged(context.rows(drawn))


@dataclass(frozen=True)
class rademacher(_Random):  # noqa: N801
    """k rows of random signs, divided by sqrt(k): E ||J^T W||^2 = ||J||_F^2, with less variance than gaussian."""

    def directions(self, context: DirectionContext, rows: range) -> Array:
        drawn = context.draws.signs(STREAM_DIRECTION, rows, context.size)
        return self._averaged(context.rows(drawn))


@dataclass(frozen=True)
class _UnitRandom(_Random):
    """Rows of unit length; `unbiased` multiplies them by sqrt(m), so that E ||J^T W||^2 = ||J||_F^2."""

    unbiased: Annotated[bool, Boolean()] = False

    def _scaled(self, context: DirectionContext, rows: Array) -> Array:
        """Unit rows (k, B, positions, classes) with the factors of the convention."""
        if context.mask is None:
            return rows * math.sqrt((context.size if self.unbiased else 1) / self.k)
        ops, size = context.ops, context.counted
        factor = ops.sqrt((size if self.unbiased else size * 0 + 1) / self._independent(ops, size))
        return rows * ops.astype(ops.reshape(factor, (1, -1, 1, 1)), ops.dtype(rows))

    def _independent(self, ops: Backend, size: Array) -> Array:
        """The number of rows that count, (B, 1), of samples with `size` components. Default: k."""
        return size * 0 + float(self.k)


@dataclass(frozen=True)
class sphere(_UnitRandom):  # noqa: N801
    """k rows uniform on the unit sphere, divided by sqrt(k): E ||J^T W||^2 = ||J||_F^2 / m.

    One row never exceeds the spectral norm of J.
    """

    def directions(self, context: DirectionContext, rows: range) -> Array:
        drawn = context.rows(context.draws.gaussians(STREAM_DIRECTION, rows, context.size))
        flat = context.ops.reshape(drawn, (len(rows), context.shape[0], context.size))
        return self._scaled(context, context.rows(unit(context.ops, context.kept(flat))))


@dataclass(frozen=True)
class orthonormal(_UnitRandom):  # noqa: N801
    """k <= m orthonormal rows, Haar distributed, divided by sqrt(k): sphere(k) with less variance, exact at k = m."""

    def directions(self, context: DirectionContext, rows: range) -> Array:
        if self.k > context.size:
            raise InputError(
                f"orthonormal(k={self.k}): there are only {context.size} orthonormal directions in a space of "
                f"{context.size} {context.components}; use k of at most {context.size}, or exact()."
            )
        ops, batch = context.ops, context.shape[0]
        drawn = context.rows(context.draws.gaussians(STREAM_DIRECTION, range(rows.stop), context.size))
        drawn = ops.moveaxis(context.kept(ops.reshape(drawn, (rows.stop, batch, context.size))), 0, 1)
        frame = unit(ops, drawn[:, :1])
        for index in range(1, rows.stop):
            row = drawn[:, index : index + 1]
            if context.mask is not None:  # no direction is left for rows beyond the number of components that count
                left = ops.astype(context.counted > index, ops.dtype(row))
                row = row * ops.reshape(left, (batch, 1, 1))
            for _ in range(2):  # Gram-Schmidt twice is orthogonal to roundoff (Giraud, Langou, Rozloznik 2005)
                row = unit(ops, row - ops.matmul(ops.matmul(row, ops.moveaxis(frame, 1, 2)), frame))
            frame = ops.concat([frame, row], 1)
        return self._scaled(context, context.rows(ops.moveaxis(frame, 1, 0)[rows.start :]))

    def _independent(self, ops: Backend, size: Array) -> Array:
        return ops.where(size < self.k, size, float(self.k))


@dataclass(frozen=True)
class random_onehot(_UnitRandom):  # noqa: N801
    """k basis vectors drawn uniformly, divided by sqrt(k): E ||J^T W||^2 = ||J||_F^2 / m."""

    def directions(self, context: DirectionContext, rows: range) -> Array:
        ops, dtype = context.ops, context.ops.dtype(context.logits)
        if context.mask is None:
            picks = context.draws.integers(STREAM_DIRECTION, rows, context.size)
            return self._scaled(context, context.rows(one_hot(ops, picks, context.size, dtype)))
        uniform = ops.astype(context.draws.uniforms(STREAM_DIRECTION, rows, 1), dtype)  # (k, B, 1)
        places = ops.cumulative_sum(context.mask)  # 1, 2, ... at the components that count
        below = ops.astype(places <= context.counted * uniform, dtype)
        pick = ops.sum(below, -1)  # the first component whose place is above; the last one if rounding passed it
        basis = one_hot(ops, pick, context.size, dtype)
        return self._scaled(context, context.rows(context.kept(basis)))


@dataclass(frozen=True)
class onehot(Projection):  # noqa: N801
    """The basis vector of the true class (at every position); the logit itself if there is only one."""

    needs_classes: ClassVar[bool] = True

    def directions(self, context: DirectionContext, rows: range) -> Array:
        return context.ops.reshape(context.target().basis("onehot()"), (1, *context.shape))


@dataclass(frozen=True)
class ones(Projection):  # noqa: N801
    """One row (1, ..., 1): J^T W is the gradient of the sum of all outputs of a sample. One backward pass.

    For a critic with an output per patch, it is what PatchGAN's R1 and gradient penalty differentiate. Probabilities
    sum to 1, so with output="probabilities" it is zero.
    """

    on_input_side: ClassVar[bool] = True

    def directions(self, context: DirectionContext, rows: range) -> Array:
        ops = context.ops
        return context.rows(ops.constant([[[1.0] * context.size]], ops.dtype(context.logits), context.logits))


@dataclass(frozen=True)
class top_k(Checked, Projection):  # noqa: N801
    """One row, 1 at the k largest logits (of every position) and 0 elsewhere; the choice is a constant."""

    needs_classes: ClassVar[bool] = True

    k: Annotated[int, Integer(minimum=1)] = 1

    def directions(self, context: DirectionContext, rows: range) -> Array:
        ops, (batch, positions, classes) = context.ops, context.shape
        if self.k > classes:
            raise InputError(f"top_k(k={self.k}): the output has only {classes} classes; use k of at most {classes}.")
        best = ops.argsort(ops.stop_gradient(-context.logits))[:, :, : self.k]
        mask = ops.sum(one_hot(ops, best, classes, ops.dtype(context.logits)), 2)
        return ops.reshape(mask, (1, batch, positions, classes))


@dataclass(frozen=True)
class fisher(Projection):  # noqa: N801
    """f - e_c with the class c drawn from f: DataGrad with labels sampled from the model, E W W^T = diag(f) - f f^T.

    The draw of c is a constant; f itself is differentiated, as in DataGrad.
    """

    needs_classes: ClassVar[bool] = True
    constant: ClassVar[bool] = False

    def directions(self, context: DirectionContext, rows: range) -> Array:
        ops, (batch, positions, classes) = context.ops, context.shape
        f = context.probabilities()
        uniform = ops.reshape(context.draws.uniforms(STREAM_DIRECTION, (0,), positions), (-1, positions, 1))
        uniform = ops.astype(uniform, ops.dtype(f))
        if classes == 1:
            drawn = ops.astype(uniform < ops.stop_gradient(f), ops.dtype(f))
        else:
            passed = ops.astype(ops.cumulative_sum(ops.stop_gradient(f))[:, :, :-1] <= uniform, "int32")
            drawn = one_hot(ops, ops.sum(passed, -1), classes, ops.dtype(f))
        share = 1 / positions
        if context.position_share is not None:
            share = ops.reshape(context.position_share, (batch, positions, 1))
        return ops.reshape((f - drawn) * share, (1, batch, positions, classes))


@dataclass(frozen=True)
class direction(Projection):  # noqa: N801
    """Directions given by the caller: v here as nested tuples of shape (m,) or (k, m), or by `directions=` in the call.

    In the call, an array of shape (m,), (B, m) or (k, B, m), the classes last, or the same with the output's own axes;
    on the input side d components, or the input's own axes, take the place of m.
    """

    on_input_side: ClassVar[bool] = True

    v: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    _matrix: tuple[tuple[float, ...], ...] = field(init=False, repr=False, compare=False, default=())

    def __post_init__(self) -> None:
        if self.v is None:
            return
        values: Any = self.v
        try:
            nested = hasattr(values[0], "__len__")
            matrix = tuple(tuple(float(value) for value in row) for row in (values if nested else [values]))
        except (TypeError, ValueError, IndexError):
            nested, matrix = False, ()
        if not matrix or not matrix[0] or len({len(row) for row in matrix}) != 1:
            raise SpecError(f"direction: v must be numbers of shape (m,) or (k, m), got {self.v!r}.")
        if not all(math.isfinite(value) for row in matrix for value in row):
            raise SpecError(f"direction: v must be finite, got {self.v!r}.")
        object.__setattr__(self, "v", matrix if nested else matrix[0])
        object.__setattr__(self, "_matrix", matrix)

    def count(self, size: int) -> int:
        return max(1, len(self._matrix))

    def directions(self, context: DirectionContext, rows: range) -> Array:
        ops, size = context.ops, context.size
        if not self._matrix:
            return self._given(context)
        if len(self._matrix[0]) != size:
            raise InputError(
                f"direction: v has {len(self._matrix[0])} components, but a sample has {size} {context.components}."
            )
        flat = [value for row in rows for value in self._matrix[row]]
        values = ops.constant(flat, ops.dtype(context.logits), context.logits)
        return context.rows(ops.reshape(values, (len(rows), 1, size)))

    def _given(self, context: DirectionContext) -> Array:
        ops, (batch, *_), size = context.ops, context.shape, context.size
        if context.given is None:
            raise InputError("direction(): no directions were given; pass directions= in the call, or direction(v).")
        given = context.given
        shape = ops.shape(given)
        total = math.prod(shape)
        if total == size:
            return context.rows(ops.reshape(given, (1, 1, size)))
        if shape[:1] == (batch,) and total == batch * size:
            return context.rows(ops.reshape(given, (1, batch, size)))
        if shape[1:2] == (batch,) and total == shape[0] * batch * size:
            return context.rows(ops.reshape(given, (shape[0], batch, size)))
        raise InputError(
            f"directions= must have shape ({size},), ({batch}, {size}) or (k, {batch}, {size}) for {batch} samples "
            f"with {size} {context.components} each, got {shape}."
        )


@dataclass(frozen=True)
class top_singular(Checked, Projection):  # noqa: N801
    """The left singular vector of the largest singular value, by power iteration on J J^T from a random start.

    The vector is a constant, so the gradient of ||J^T W|| equals the singular value's (Danskin). The error of the
    value falls at the rate (s_2 / s_1)^(2 * iterations). Each iteration costs one product with J^T and one with J.
    """

    iterations: Annotated[int, Integer(minimum=1)] = 10

    def directions(self, context: DirectionContext, rows: range) -> Array:
        ops, batch = context.ops, context.shape[0]
        start = context.rows(context.draws.gaussians(STREAM_START, (0,), context.size))
        u = unit(ops, ops.reshape(start, (batch, context.size)))
        for _ in range(self.iterations):
            cotangent = ops.reshape(u, context.shape)
            # J v is the derivative of the linear map u -> J^T u, pulled back: no forward mode is needed.
            v, push = ops.vjp(context.pullback, cotangent)
            u = ops.stop_gradient(push(ops.stop_gradient(v)))
            u = unit(ops, ops.reshape(u, (batch, context.size)))
        return context.rows(ops.reshape(u, (1, batch, context.size)))
