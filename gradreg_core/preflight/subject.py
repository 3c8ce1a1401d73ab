"""The call that is checked: its arguments, and its terms in the form that the check looks at."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from gradreg_core.backend import Array, Backend
from gradreg_core.forward import Call
from gradreg_core.inputs import Arguments
from gradreg_core.projections import fisher, gaussian, top_k, top_singular
from gradreg_core.spec import JacobianPenalty, Regularizer, Sum

__all__ = ["BoundCalls", "Subject", "axes_of", "jacobian_terms", "smooth_terms"]


class BoundCalls(Protocol):
    """The calls of a backend; see :class:`gradreg_core.calls.Calls`."""

    backend: Backend

    @property
    def loss(self) -> Callable[..., Any]: ...

    @property
    def penalty(self) -> Callable[..., Any]: ...


@dataclass(frozen=True)
class Subject:
    """The arguments of the call that is checked."""

    calls: BoundCalls
    call: Call
    model: Any
    arguments: Arguments
    y: Any
    reg: Regularizer

    @property
    def ops(self) -> Backend:
        return self.calls.backend

    @property
    def x(self) -> Array:
        """The packed differentiable input; an array of another type where nothing is differentiable."""
        packed = self.arguments.packed()
        return self.arguments.like if packed is None else packed

    def penalty(self, packed: Array, reg: Regularizer, model: Any = None) -> Array:
        """The penalty of `reg` where `packed` takes the place of what is differentiated."""
        model = self.model if model is None else model
        x = self.arguments.as_passed(packed if self.arguments.wrt else None)
        return self.calls.penalty(model, x, self.y, reg, batch_norm="allow", **self.call.options())

    def number(self, value: Array) -> float:
        return float(self.ops.stop_gradient(value))

    def length(self, array: Array) -> float:
        return math.sqrt(self.number(self.ops.sum(array * array, axes_of(self.ops, array))))


def axes_of(ops: Backend, array: Array) -> tuple[int, ...]:
    """All axes of `array`."""
    return tuple(range(len(ops.shape(array))))


def jacobian_terms(reg: Regularizer) -> list[JacobianPenalty]:
    """The Jacobian terms in the general form, charged at this step for all samples with weight 1."""
    lowered = [term.lower() for term in reg.terms]
    return [replace(term, weight=1.0, every=1, fraction=1.0) for term in lowered if term is not None]


def smooth_terms(reg: Regularizer) -> Regularizer | None:
    """The Jacobian terms at the input, with directions that do not themselves depend on the input."""
    terms = tuple(
        JacobianPenalty(1.0, projection=gaussian(), seed=term.seed)
        if isinstance(term.projection, top_singular | top_k | fisher)
        else term
        for term in jacobian_terms(reg)
        if term.at is None
    )
    return Sum(terms) if terms else None
