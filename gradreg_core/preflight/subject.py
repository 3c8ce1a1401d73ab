"""The call that is checked: its arguments, and its terms in the form that the check uses."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from gradreg_core.backend import Array, Backend, Pair
from gradreg_core.evaluation import samples_of
from gradreg_core.forward import Call, Forward, Samples, forward_pass
from gradreg_core.inputs import Arguments
from gradreg_core.objective import Objective, Repeatable
from gradreg_core.projections import fisher, gaussian, top_k, top_singular
from gradreg_core.spec import JacobianPenalty, JacobianTerm, Regularizer, Sum

__all__ = ["BoundCalls", "Subject", "charged_terms", "jacobian_terms", "pairs_of", "smooth_terms"]


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
    def packed(self) -> Array | None:
        """The differentiable input, or None if nothing in x is differentiable."""
        return self.arguments.packed()

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the call, for another call with the same."""
        return self.call.options()

    def penalty(self, packed: Array | None, reg: Regularizer, model: Any = None) -> Array:
        """The penalty of `reg` with `packed` in place of the differentiated input."""
        uses_target = any(term.to_target for term in jacobian_terms(reg))
        options = self.options if uses_target else {**self.options, "target": None}
        model = self.model if model is None else model
        x = self.arguments.as_passed(packed)
        return self.calls.penalty(model, x, self.y, reg, batch_norm="allow", **options)

    def samples(self, packed: Array | None) -> Samples:
        """The batch with `packed` in place of the differentiated input."""
        arguments = Arguments.of(self.ops, "check", self.arguments.as_passed(packed))
        return samples_of(self.call, arguments, self.y)

    def forward(self, samples: Samples, pairs: Sequence[Pair], model: Any = None) -> Forward:
        """A pass over samples with pullbacks for pairs (of, at) of places."""
        ops, model = self.ops, self.model if model is None else model
        with ops.enter("check", model, samples.arguments.arrays, "allow"):
            samples = replace(samples, arguments=samples.arguments.prepared())
            return forward_pass(self.call, model, samples, pairs)

    def objective(self, reg: Regularizer, model: Any = None) -> Objective:
        """The penalty of `reg` as a function of the input and of the model's weights.

        Args:
            reg: the terms.
            model: a stand-in for the model, with its kinks rounded off.
        """
        ops, pairs = self.ops, pairs_of(jacobian_terms(reg))

        def value(packed: Array | None) -> Array:
            return self.penalty(packed, reg, model)

        def reach(packed: Array | None) -> Array:
            forward = self.forward(self.samples(packed), pairs, model)
            total = self.projected(forward.outputs)
            for place in forward.values.values():
                total = total + self.projected(place)
            return total

        data = [*self.arguments.arrays, *self._data()]
        with ops.repeatable(self.model):
            objective = ops.objective(self.model, value, reach, self.packed, data)
        return Repeatable(objective, lambda: ops.repeatable(self.model))

    def _data(self) -> list[Array]:
        """The arrays of the call that are not inputs."""
        given = [self.y, *(value for name, value in self.options.items() if name != "params")]
        leaves = [leaf for value in given for _, leaf in self.ops.flatten(value)[0]]
        return [leaf for leaf in leaves if self.ops.is_array(leaf)]

    def projected(self, array: Array) -> Array:
        """A fixed linear function of an array, in float32 or better, without arrays that might pass for weights."""
        ops, size = self.ops, math.prod(self.ops.shape(array))
        numbers = ops.astype((ops.arange(size, array) * 7919) % 1009, ops.dtype(array)) * (2 / 1009) - 1
        return self.total(array * ops.reshape(numbers, ops.shape(array)))

    def total(self, array: Array) -> Array:
        """The sum of all components, in float32 or better."""
        ops = self.ops
        wide = array if ops.dtype(array) == "float64" else ops.astype(array, "float32")
        return ops.sum(wide, tuple(range(len(ops.shape(wide)))))

    def random(self, array: Array, seed: int = 0) -> Array:
        """Standard Gaussians with the shape, dtype and device of an array."""
        ops = self.ops
        values = np.random.default_rng(seed).standard_normal(ops.shape(array), dtype=np.float32)
        return ops.astype(ops.asarray(values, array), ops.dtype(array))

    def number(self, value: Array) -> float:
        return float(self.ops.stop_gradient(value))

    def length(self, array: Array) -> float:
        """The L2 norm, of float16 too."""
        ops = self.ops
        wide = array if ops.dtype(array) == "float64" else ops.astype(array, "float32")
        return math.sqrt(self.number(self.total(wide * wide)))


def pairs_of(terms: Sequence[JacobianPenalty]) -> tuple[Pair, ...]:
    """The pairs (of, at) of named places that the terms use; no pair for the input and the outputs alone."""
    pairs = dict.fromkeys((term.of, term.at) for term in terms if term.pulls)
    return tuple(pair for pair in pairs if pair != (None, None))


def jacobian_terms(reg: Regularizer) -> list[JacobianPenalty]:
    """The Jacobian terms in the general form, charged at this step for all samples with weight 1."""
    lowered = [term.lower() for term in reg.terms]
    return [replace(term, weight=1.0, every=1, fraction=1.0) for term in lowered if term is not None]


def charged_terms(reg: Regularizer, step: Any) -> Regularizer | None:
    """The Jacobian terms with their weight at this step (1 if it is 0), charged now and for all samples."""
    terms = [
        replace(lowered, weight=float(term.weight_at(step)) or 1.0, every=1, fraction=1.0)
        for term in reg.terms
        if isinstance(term, JacobianTerm) and (lowered := term.lower()) is not None
    ]
    return Sum(tuple(terms)) if terms else None


def smooth_terms(reg: Regularizer) -> Regularizer | None:
    """The Jacobian terms with directions and targets that do not themselves depend on the input or the weights.

    Such directions are constants to the gradient, but not to a difference.
    """

    def smooth(term: JacobianPenalty) -> JacobianPenalty:
        term = replace(term, to_target=False)
        if term.side == "output" and term.method == "difference":  # along the gradient
            return replace(term, side="input", projection=gaussian())
        depends = isinstance(term.projection, top_singular | top_k | fisher)
        return replace(term, projection=gaussian()) if depends else term

    terms = tuple(map(smooth, jacobian_terms(reg)))
    return Sum(terms) if terms else None
