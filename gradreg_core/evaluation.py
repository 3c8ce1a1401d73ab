"""The terms of a regularizer over one batch: which are due, which forward passes they share, their weighted means.

A :class:`Plan` is made first, from the terms and the size of the batch alone; :func:`evaluate` runs its passes and
sums.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from gradreg_core import engine, input_side
from gradreg_core.backend import Array, Backend, Pair
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.forward import Call, Forward, Samples, forward_pass, position_weights
from gradreg_core.inputs import Arguments
from gradreg_core.layout import is_floating, is_integer, require_integer_scalar
from gradreg_core.outputs import losses
from gradreg_core.random import STREAM_SUBSET, make_draws
from gradreg_core.sample_ids import checked_ids, nan_of_wide_ids
from gradreg_core.scalars import converted, positive_scalar, weights
from gradreg_core.spec import JacobianPenalty, Regularizer, Term
from gradreg_core.targets import require_target

__all__ = ["Evaluation", "Plan", "evaluate", "make_plan", "samples_of"]


class PartKey(NamedTuple):
    """The key that terms over the same part of the batch share."""

    fraction: float
    seed: int | None
    """The seed of the terms, or None if the call has one for all."""


@dataclass
class Plan:
    """Which terms are due, and which of them share a forward pass."""

    due: tuple[bool, ...]
    """Whether each term may cost anything at this step."""
    over_whole: tuple[JacobianPenalty, ...]
    """Jacobian terms over the whole batch, which share one pass with the loss."""
    over_part: dict[PartKey, tuple[JacobianPenalty, ...]]
    """Jacobian terms over a part of the batch."""
    needs_whole: bool
    """Whether anything needs the outputs of the whole batch."""


_LOSS_ALONE, _NOTHING = Plan((), (), {}, True), Plan((), (), {}, False)


def make_plan(call: Call, terms: tuple[Term, ...], batch: int, with_loss: bool, traced_step: int | None = None) -> Plan:
    """The plan for `terms` over a batch of `batch` samples.

    `traced_step` is the step as an int that a compiler traces. A branch on it makes a program for the steps at which
    terms with `every=` are due, and one for the others.

    Raises:
        InputError: the call gives directions, and a term is over a part of the batch.
    """
    if not terms:
        return _LOSS_ALONE if with_loss else _NOTHING
    due: list[bool] = []
    needs_whole = with_loss
    over_whole: list[JacobianPenalty] = []
    over_part: dict[PartKey, tuple[JacobianPenalty, ...]] = {}
    for term in terms:
        due.append(term.is_due(call.step) and (traced_step is None or term.every == 1 or traced_step % term.every == 0))
        if not due[-1]:
            continue
        needs_whole = needs_whole or term.needs_outputs
        lowered = term.lower()
        if lowered is None:
            continue
        if lowered.fraction == 1 or _part_size(lowered, batch) >= batch:
            over_whole.append(lowered)
        else:
            key = _part_key(call, lowered)
            over_part[key] = (*over_part.get(key, ()), lowered)
    if over_part and call.directions is not None:
        raise InputError(
            f"{call.name}: directions= in the call and fraction < 1 do not go together. Leave fraction out, or put the "
            f"directions into direction(v)."
        )
    return Plan(tuple(due), tuple(over_whole), over_part, needs_whole or bool(over_whole))


def _part_size(term: JacobianPenalty, batch: int) -> int:
    return math.ceil(term.fraction * batch)


def _part_key(call: Call, term: JacobianPenalty) -> PartKey:
    return PartKey(term.fraction, term.seed if call.seed is None else None)


class _Part(NamedTuple):
    """The part of the batch that terms penalise, and the pass that they take it from."""

    forward: Forward
    indices: Array
    is_cut: bool
    """Whether the pass is over the part alone; otherwise it is the one over the whole batch."""


@dataclass
class _Passes:
    """The forward passes of a plan."""

    call: Call
    model: Any
    samples: Samples
    whole: Forward | None = None
    parts: dict[PartKey, _Part] = field(default_factory=dict)

    def run(self, plan: Plan) -> None:
        if not plan.over_part:
            if plan.needs_whole:
                self.whole = _pass(self.call, self.model, self.samples, plan.over_whole)
            return
        cuts = not self.call.ops.holds_samples(self.model, self.samples.batch)
        over_whole = plan.over_whole if cuts else (*plan.over_whole, *(t for p in plan.over_part.values() for t in p))
        if plan.needs_whole or not cuts:
            self.whole = _pass(self.call, self.model, self.samples, over_whole)
        for key, terms in plan.over_part.items():
            self._run_part(key, terms, cuts)

    def _run_part(self, key: PartKey, terms: tuple[JacobianPenalty, ...], cuts: bool) -> None:
        """The pass over one part; it updates the model's state only if no other pass does."""
        call, ops, samples = self.call, self.call.ops, self.samples
        ids = ops.arange(samples.batch, samples.like) if samples.ids is None else samples.ids
        chosen = _part_order(call, terms[0], ids)[: _part_size(terms[0], samples.batch)]
        if not cuts:
            assert self.whole is not None
            self.parts[key] = _Part(self.whole, chosen, False)
            return
        first = self.whole is None and not self.parts
        model = self.model if first else ops.without_state_changes(self.model)
        self.parts[key] = _Part(_pass(call, model, samples.take(chosen), terms), chosen, True)

    @property
    def like(self) -> Array:
        """An array with the dtype and the device of the penalties."""
        if self.whole is not None:
            return self.whole.wide
        return next((part.forward.wide for part in self.parts.values()), self.samples.like)


def _part_order(call: Call, term: JacobianPenalty, ids: Array) -> Array:
    """A random order of the batch; its first samples are the part that `fraction` penalises."""
    words = make_draws(call.ops, call.seed_of(term), call.step, ids).words(STREAM_SUBSET, (0,), 1)
    return call.ops.argsort(words[0, :, 0])


def _pass(call: Call, model: Any, samples: Samples, terms: tuple[JacobianPenalty, ...]) -> Forward:
    """One forward pass that serves the loss and as many of `terms` as it can."""
    pairs: dict[Pair, None] = {}
    alone = None
    for term in terms:
        if term.pulls:
            pairs[term.of, term.at] = None
        # If the step is traced, a term of `every=n` belongs in its branch, so that the common pass costs no more.
        elif alone is None and (term.every == 1 or isinstance(call.step, int)):
            alone = term
    if alone is not None and not pairs:
        return input_side.input_pass(alone, call, model, samples)
    return forward_pass(call, model, samples, tuple(pairs))


@dataclass
class _Mean:
    """sum_i w_i v_i / normalizer over the whole batch."""

    ops: Backend
    batch: int
    weight: Array | None
    normalizer: Any

    @classmethod
    def of(cls, call: Call, batch: int, like: Array, positions: Array | None) -> "_Mean":
        """The mean for a call; `positions` is the total weight of each sample's positions, (B,)."""
        ops, weight = call.ops, positions
        normalizer: Any = float(batch)
        if call.sample_weight is not None:
            given = converted(ops, call.name, "sample_weight", call.sample_weight, like)
            if ops.shape(given) != (batch,):
                raise InputError(f"{call.name}: sample_weight must have shape ({batch},), got {ops.shape(given)}.")
            own = weights(ops, call.name, "sample_weight", given, ops.dtype(like))
            weight = own if weight is None else own * weight
        if weight is not None:
            total = ops.sum(weight, 0)  # which may overflow
            normalizer = ops.where(total > 0, ops.where(total < math.inf, total, math.nan), 1.0)
        if call.normalizer is not None:
            normalizer = positive_scalar(ops, call.name, "normalizer", call.normalizer, like)
        return cls(ops, batch, weight, normalizer)

    def __call__(self, values: Array, part: _Part | None = None) -> Array:
        """The mean of values (B,), or its unbiased estimate from a part of the batch."""
        ops = self.ops
        if part is None and self.weight is None and type(self.normalizer) is float and self.normalizer == self.batch:
            return ops.mean(values)
        if part is None:
            return ops.sum(values if self.weight is None else self.weight * values, 0) / self.normalizer
        values = values if part.is_cut else ops.take(values, part.indices)
        weight = None if self.weight is None else ops.take(self.weight, part.indices)
        total = ops.sum(values if weight is None else weight * values, 0)
        return total * (self.batch / ops.shape(part.indices)[0]) / self.normalizer


class _Batch:
    """The batch that terms are evaluated on; see :class:`gradreg_core.spec.Batch`."""

    def __init__(self, passes: _Passes) -> None:
        self.passes, self.ops, self.call = passes, passes.call.ops, passes.call.name
        call = passes.call
        plain = call.position_weight is None and call.ignore_index is None
        self._mean = _Mean.of(call, passes.samples.batch, passes.like, None if plain else self._positions())
        self._of_ids = None if call.sample_ids is None else nan_of_wide_ids(call, passes.samples.like)

    def _positions(self) -> Array | None:
        """The total weight of each sample's positions, (B,), or None if all positions count alike."""
        call, whole = self.passes.call, self.passes.whole
        if not (whole or self.passes.parts):
            return None
        # If every due term is over a part, the whole batch has no pass of its own.
        forward = next(part.forward for part in self.passes.parts.values()) if whole is None else whole
        weight = position_weights(call, self.passes.samples, forward.layout, forward.wide)
        return None if weight is None else self.ops.sum(weight, 1)

    def mean(self, values: Array) -> Array:
        return self._mean(values)

    @property
    def forward(self) -> Forward:
        assert self.passes.whole is not None
        return self.passes.whole

    def mean_penalty(self, term: JacobianPenalty) -> Array:
        side = engine if term.pulls else input_side
        parts = self.passes.parts
        part = parts.get(_part_key(self.passes.call, term)) if parts else None
        value = self._mean(side.per_sample(term, self.forward if part is None else part.forward), part)
        return value if self._of_ids is None else value + self.ops.astype(self._of_ids, self.ops.dtype(value))

    def parameters(self, owner: str) -> list[Array]:
        given, model = self.passes.call.params, self.passes.model
        params = self.ops.parameters(model) if given is None else self.ops.tree_leaves(given)
        if params is None:
            raise InputError(
                f"{self.call}: {owner} cannot see the parameters of a {type(model).__name__}; pass params=."
            )
        return params

    def zero(self) -> Array:
        like = self.passes.like
        return self.ops.constant(0.0, "float64" if self.ops.dtype(like) == "float64" else "float32", like)

    def charged(self, term: Term, plan_knows: bool) -> Array:
        """The weighted penalty of a term that is due, or that may be due unless `plan_knows`."""
        ops, step = self.ops, self.passes.call.step
        if plan_knows or term.every == 1:
            value = term.value(self)
        else:
            value = ops.cond(step % term.every == 0, lambda: term.value(self))
        weight, factor = term.weight_at(step), term.every * term.factor
        if ops.is_array(weight):
            return value * self._checked_weight(term, weight, value) * factor
        if not isinstance(weight, int | float):
            raise InputTypeError(
                f"{self.call}: the weight schedule of {type(term).__name__} must return a number or an array of the "
                f"{ops.name} backend, got {weight!r}. Return float(weight)."
            )
        return value * (weight * factor)

    def _checked_weight(self, term: Term, weight: Array, value: Array) -> Array:
        """The weight that a schedule computed, in the dtype of `value`: NaN if it is negative or not finite.

        The schedule's own dtype, often float32, must not become the penalty's.

        Raises:
            InputError: it is negative or not finite, if reading it is free; or it is not a real number.
        """
        ops, read = self.ops, self.ops.values_if_free(weight)
        right = is_floating(ops.dtype(weight)) or (is_integer(ops.dtype(weight)) and ops.dtype(weight) != "bool")
        if not right or (read is not None and not 0 <= read < math.inf):
            raise InputError(
                f"{self.call}: the weight schedule of {type(term).__name__} must return a finite number of at least 0, "
                f"got {weight!r} at step {self.passes.call.step!r}."
            )
        wide = ops.astype(weight, ops.dtype(value))
        return wide if read is not None else ops.where((wide >= 0) & (wide < math.inf), wide, math.nan)


@dataclass
class Evaluation:
    """The loss and the penalties of one batch."""

    loss: Array | None
    penalties: tuple[Array, ...]
    """The weighted penalty of each term; 0 if the term is not due."""
    due: tuple[Array, ...]
    """The penalties of the terms that are due."""
    outputs: Any
    """The model's result, if anything needed the whole batch."""
    passes: tuple[Forward, ...]
    """The forward passes."""


def evaluate(
    call: Call, model: Any, arguments: Arguments, y: Any, reg: Regularizer | None, with_loss: bool
) -> Evaluation:
    """The loss (if asked for) and the penalty of every term, with as few passes as the terms allow.

    Terms over the whole batch share one forward pass with the loss. Terms over a part of the batch have a pass of their
    own over that part, so that the loss, the outputs and the model's state are as in a plain step. A model that may
    hold arrays of the batch itself cannot be cut; the part is then taken from the pass over the whole.
    """
    step = _checked_step(call, arguments)
    traced_step = call.step if isinstance(call.step, int) and not isinstance(step, int) else None
    plan_knows = isinstance(step, int) or traced_step is not None
    call = call if step is call.step else replace(call, step=step)
    if reg is not None or call.target is not None:
        require_target(call, reg)
    terms = () if reg is None else reg.terms
    plan = make_plan(call, terms, arguments.batch, with_loss, traced_step)
    passes = _Passes(call, model, samples_of(call, arguments, y))
    passes.run(plan)
    batch = _Batch(passes)
    loss = batch.mean(losses(batch.forward)) if with_loss else None
    penalties: list[Array] = []
    due: list[Array] = []
    for term, is_due in zip(terms, plan.due, strict=True):
        penalties.append(batch.charged(term, plan_knows) if is_due else batch.zero())
        if is_due:
            due.append(penalties[-1])
    made = [] if passes.whole is None else [passes.whole]
    for part in passes.parts.values():
        made.append(part.forward)
    returned = None if passes.whole is None else passes.whole.returned
    return Evaluation(loss, tuple(penalties), tuple(due), returned, tuple(made))


def samples_of(call: Call, arguments: Arguments, y: Any) -> Samples:
    """The whole batch, with the call's arguments about its samples.

    Raises:
        InputError: the sample ids do not fit.
    """
    ops, weight = call.ops, call.position_weight
    weight = None if weight is None else converted(ops, call.name, "position_weight", weight, arguments.like)
    target = call.target
    if target is not None and not callable(target):
        target = converted(ops, call.name, "target", target, arguments.like)
    ids = None if call.sample_ids is None else checked_ids(call, arguments)
    return Samples(arguments, y, ids, weight, target)


def _checked_step(call: Call, arguments: Arguments) -> Any:
    """The step as a Python int if that costs nothing, else unchanged."""
    static = call.ops.static_int(call.step)
    if static is None:
        if isinstance(call.step, int) and not isinstance(call.step, bool):
            # An int that a compiler traces. Only `make_plan` branches on it: elsewhere each value would recompile.
            return call.ops.int32(call.step, arguments.like)
        require_integer_scalar(call.ops, call.name, "step", call.step)
        return call.step
    if static < 0:
        raise InputError(f"{call.name}: step must be at least 0, got {static}.")
    return static
