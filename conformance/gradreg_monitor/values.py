"""The values that a monitor records on one batch: losses, penalties, norms, and the penalty's share of the gradient."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from gradreg_core.backend import Backend
from gradreg_core.calls import Calls
from gradreg_core.projections import exact, orthonormal, top_singular
from gradreg_core.results import term_names
from gradreg_core.spec import JacobianPenalty, JacobianTerm, Regularizer, Sum
from gradreg_core.terms import Term

__all__ = ["Options", "Subject", "always_charged"]

_POWER_ITERATIONS = 30


@dataclass(frozen=True)
class Options:
    """The arguments of the calls that are the same at every step; see :class:`gradreg_core.calls.Calls`."""

    seed: Any
    loss_fn: Callable[[Any, Any], Any] | None
    outputs: Any
    sample_weight: Any
    position_weight: Any
    ignore_index: int | None
    class_axis: int | None
    target: Any
    chunk_size: int | None

    def of(self, *left_out: str) -> dict[str, Any]:
        """The keyword arguments, without those that are None."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None and name not in left_out}


@dataclass(frozen=True)
class Subject:
    """A model, the batch on which it is recorded, and the step of training."""

    calls: Calls
    model: Any
    x: Any
    y: Any
    reg: Regularizer | None
    step: int
    params: Any
    options: Options

    @property
    def ops(self) -> Backend | None:
        """The primitives; None for a backend with its own calls."""
        return getattr(self.calls, "backend", None)

    @property
    def has_loss(self) -> bool:
        """Whether the batch has a loss, which needs labels or a loss function."""
        return self.y is not None or self.options.loss_fn is not None

    def penalties(self) -> dict[str, float]:
        """The loss, the penalty of all terms and of each, weights included."""
        if self.has_loss:
            with self._repeatable():
                _, parts = self._loss(self.reg)
            values = [self._number(value) for value in parts.penalty]
            recorded = {"loss": self._number(parts.loss)}
        else:
            values = [self._penalty(term) for term in self._terms()]
            recorded = {}
        if self.reg is None:
            return recorded
        names = term_names(self._terms())
        own = {f"penalty/{name}": value for name, value in zip(names, values, strict=True)}
        return {**recorded, "penalty": math.fsum(values), **(own if len(own) > 1 else {})}

    def norms(self, at: str | None, projections: int | None) -> dict[str, float]:
        """The means over the samples of the Jacobian's norms at the input, or at a named place."""
        if at is not None:
            return self._norms_at(at, projections)
        options = self._options("sample_weight", "target", "params")
        if projections is None:  # there are no draws
            options = {name: value for name, value in options.items() if name not in ("step", "seed")}
        else:
            options["projections"] = projections
        with self._repeatable():
            measures = self.calls.measure(self.model, self.x, self.y, **options)
        recorded = {"jacobian/frobenius": measures.frobenius, "jacobian/spectral": measures.spectral}
        if measures.loss_gradient is not None:
            recorded["jacobian/loss_gradient"] = measures.loss_gradient
        return {name: self._mean(values) for name, values in recorded.items()}

    def _norms_at(self, at: str, projections: int | None) -> dict[str, float]:
        size = None if projections is None else orthonormal(projections, unbiased=True)
        terms = {
            "jacobian/frobenius": JacobianPenalty(1.0, squared=False, at=at, projection=size or exact()),
            "jacobian/spectral": JacobianPenalty(1.0, squared=False, at=at, projection=top_singular(_POWER_ITERATIONS)),
        }
        if self.has_loss:
            terms["jacobian/loss_gradient"] = JacobianPenalty(
                1.0, squared=False, at=at, projection=exact(), output="loss"
            )
        return {name: self._penalty(term) for name, term in terms.items()}

    def shares(self) -> dict[str, float]:
        """The penalty's share of the gradient of the parameters, and its direction.

        With p and q the gradients of penalty and loss and t = p + q: ||p|| / ||t|| and <p, t> / (||p|| ||t||). NaN if a
        norm is 0. Empty without a penalty, or for a backend whose models hide their parameters.
        """
        of_penalty = None if self.reg is None else self._gradients(lambda: self._penalty_array(self.reg))
        if of_penalty is None:
            return {}
        if not self.has_loss:
            return {"gradient/penalty": math.sqrt(self._dot(of_penalty, of_penalty))}
        of_loss = self._gradients(lambda: self._loss(None)[0])
        assert of_loss is not None
        total = [_sum(one, other) for one, other in zip(of_penalty, of_loss, strict=True)]
        length, whole = (math.sqrt(self._dot(gradients, gradients)) for gradients in (of_penalty, total))
        return {
            "gradient/share": length / whole if whole else math.nan,
            "gradient/cosine": self._dot(of_penalty, total) / (length * whole) if length and whole else math.nan,
        }

    def _terms(self) -> Sequence[Term]:
        return () if self.reg is None else self.reg.terms

    def _options(self, *left_out: str) -> dict[str, Any]:
        """Keyword arguments of a call. A backend with its own calls need not accept the last two."""
        given = {"step": self.step, **self.options.of(*left_out)}
        if self.ops is not None:
            given["batch_norm"] = "allow"
        if self.params is not None and "params" not in left_out:
            given["params"] = self.params
        return given

    def _loss(self, reg: Regularizer | None) -> Any:
        return self.calls.loss(
            self.model,
            self.x,
            self.y,
            reg,
            **self._options(*(() if reg is not None else ("target",))),
        )

    def _penalty_array(self, reg: Regularizer | None) -> Any:
        assert reg is not None
        return self.calls.penalty(
            self.model,
            self.x,
            self.y,
            reg,
            **self._options(),
        )

    def _penalty(self, reg: Regularizer) -> float:
        with self._repeatable():
            return self._number(self._penalty_array(reg))

    def _repeatable(self) -> AbstractContextManager[None]:
        return nullcontext() if self.ops is None else self.ops.repeatable(self.model)

    def _gradients(self, scalar: Callable[[], Any]) -> list[Any] | None:
        """The gradients of a scalar for the model's parameters, None without a path; None if they are unknown."""
        ops = self.ops
        if ops is None:
            return None
        given = [self.x, self.y, *self.options.of().values()]
        data = [leaf for value in given for _, leaf in ops.flatten(value)[0] if ops.is_array(leaf)]
        with self._repeatable():
            objective = ops.objective(self.model, lambda _: scalar(), lambda _: self._reach(), None, data)
        if not len(objective.weights):
            return None
        with self._repeatable():
            _, gradients, _ = objective.gradients_once(None)
        trained = self._trained()
        pairs = list(zip(objective.weights, gradients, strict=True))
        return [gradient for weight, gradient in pairs if id(weight) in trained] or [gradient for _, gradient in pairs]

    def _reach(self) -> Any:
        """A scalar that depends on all trained parameters."""
        return self._loss(None)[0] if self.has_loss else self._penalty_array(self.reg)

    def _trained(self) -> set[int]:
        """The identities of the parameters, if the backend or the caller names them: other arrays are constants."""
        assert self.ops is not None
        leaves = self.ops.parameters(self.model) if self.params is None else self.ops.tree_leaves(self.params)
        return {id(leaf) for leaf in leaves or ()}

    def _dot(self, first: Sequence[Any], second: Sequence[Any]) -> float:
        """The inner product of gradients, with None for zeros."""
        pairs = zip(first, second, strict=True)
        return math.fsum(self._total(one * other) for one, other in pairs if one is not None and other is not None)

    def _total(self, array: Any) -> float:
        """The sum of all components, in float32 or better."""
        ops = self.ops
        assert ops is not None
        wide = array if ops.dtype(array) == "float64" else ops.astype(array, "float32")
        return self._number(ops.sum(wide, tuple(range(len(ops.shape(wide))))))

    def _mean(self, values: Any) -> float:
        if self.ops is None:
            return float(np.mean(values))
        return self._total(values) / self.ops.shape(values)[0]

    def _number(self, value: Any) -> float:
        return float(value if self.ops is None else self.ops.stop_gradient(value))


def always_charged(reg: Regularizer | None) -> Regularizer | None:
    """The average regularizer: each term at every step and on the whole batch."""
    if reg is None:
        return None
    terms = tuple(map(_always, reg.terms))
    return terms[0] if len(terms) == 1 else Sum(terms)


def _always(term: Term) -> Term:
    term = replace(term, every=1)
    return replace(term, fraction=1.0) if isinstance(term, JacobianTerm) else term


def _sum(one: Any, other: Any) -> Any:
    """The sum of two gradients, with None for zeros."""
    if one is None or other is None:
        return other if one is None else one
    return one + other
