"""The terms of a regularizer over one batch: which are due, which forward passes they need, their weighted means."""

import math
from dataclasses import dataclass, replace
from typing import Any

from gradreg_core import engine, input_side
from gradreg_core.backend import Array, Backend
from gradreg_core.engine import Call, Forward, forward_pass, make_forward, widened
from gradreg_core.errors import InputError, UnsupportedError
from gradreg_core.layout import is_floating, is_integer, require_integer_scalar
from gradreg_core.presets import ConfidencePenalty, WeightDecay
from gradreg_core.random import STREAM_SUBSET, make_draws
from gradreg_core.spec import JacobianPenalty, JacobianTerm, Regularizer, Term

__all__ = ["Evaluation", "evaluate"]


def _confidence(forward: Forward) -> Array:
    """sum_k f_k log f_k of each sample, averaged over its positions, shape (B,)."""
    ops, (_, positions, classes) = forward.call.ops, forward.layout.canonical
    forward.layout.require_classes(forward.call.name, "ConfidencePenalty")
    z = forward.logits
    if classes == 1:
        f = ops.sigmoid(z)
        each = -f * ops.softplus(-z) - (1 - f) * ops.softplus(z)
    else:
        each = ops.softmax(z) * ops.log_softmax(z)
    return ops.sum(each, (1, 2)) / positions


def _weight_decay(call: Call, model: Any, like: Array) -> Array:
    """1/2 sum ||w||^2 over parameters with two or more axes, a scalar."""
    ops = call.ops
    params = ops.tree_leaves(call.params) if call.params is not None else ops.parameters(model)
    if params is None:
        raise InputError(
            f"{call.name}: WeightDecay cannot see the parameters of a {type(model).__name__}; pass params=."
        )
    total = ops.constant(0.0, ops.dtype(like), like)
    axes = [len(ops.shape(param)) for param in params]
    if axes and max(axes) < 2:
        raise InputError(
            f"{call.name}: WeightDecay counts parameters with two or more axes, and none of the model's {len(axes)} "
            f"has so many; if a wrapper has flattened them (FullyShardedDataParallel: use_orig_params=True), undo that."
        )
    for param in params:
        if ops.dtype(param).startswith("complex"):
            raise InputError(f"{call.name}: WeightDecay is for real parameters, got one of {ops.dtype(param)}.")
        if len(ops.shape(param)) >= 2:
            wide = widened(ops, param)
            total = total + 0.5 * ops.sum(wide * wide, tuple(range(len(ops.shape(param)))))
    return total


@dataclass(frozen=True)
class _Mean:
    """sum_i w_i v_i / normalizer over the whole batch."""

    ops: Backend
    batch: int
    weight: Array | None
    normalizer: Any

    @classmethod
    def of(cls, call: Call, batch: int, like: Array) -> "_Mean":
        ops, weight = call.ops, None
        normalizer: Any = float(batch)
        if call.sample_weight is not None:
            given = ops.asarray(call.sample_weight, like)
            if ops.shape(given) != (batch,):
                raise InputError(f"{call.name}: sample_weight must have shape ({batch},), got {ops.shape(given)}.")
            values = ops.values_if_free(given)
            if values is not None and not (values >= 0).all():
                raise InputError(f"{call.name}: sample_weight must be at least 0 everywhere, and not NaN.")
            weight = ops.astype(given, ops.dtype(like))
            total = ops.sum(weight, 0)
            normalizer = ops.where(total > 0, total, 1.0)
        if call.normalizer is not None:
            normalizer = call.normalizer
            if isinstance(normalizer, int | float) and not (math.isfinite(normalizer) and normalizer > 0):
                raise InputError(f"{call.name}: normalizer must be a finite number above 0, got {normalizer!r}.")
        return cls(ops, batch, weight, normalizer)

    def __call__(self, values: Array, indices: Array | None = None) -> Array:
        """The mean of values (B,), or its unbiased estimate from the part of the batch at `indices`."""
        ops = self.ops
        weight = self.weight if self.weight is None or indices is None else ops.take(self.weight, indices)
        total = ops.sum(values if weight is None else weight * values, 0)
        if indices is not None:
            total = total * (self.batch / ops.shape(indices)[0])
        return total / self.normalizer


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` computed."""

    loss: Array | None
    penalties: tuple[Array, ...]
    """Of every term, with its weight."""
    due: tuple[Array, ...]
    """Those that may be other than 0 at this step."""
    outputs: Any


def _ids(call: Call, batch: int, x: Array) -> Array | None:
    ops = call.ops
    if call.sample_ids is None:
        return None
    ids = ops.asarray(call.sample_ids, x)
    if ops.shape(ids) != (batch,) or not is_integer(ops.dtype(ids)):
        raise InputError(
            f"{call.name}: sample_ids must be {batch} integers, one for each sample, got {ops.dtype(ids)} of shape "
            f"{ops.shape(ids)}."
        )
    return ops.int32(ids, x)


_PartKey = tuple[float, int | None]


def _part_key(call: Call, term: JacobianTerm) -> _PartKey:
    """What terms with the same part of the batch have in common."""
    return term.fraction, term.seed if call.seed is None else None


def _part_order(call: Call, term: JacobianTerm, ids: Array) -> Array:
    """A random order of the batch; its first samples are the part that `fraction` penalises."""
    words = make_draws(call.ops, call.seed_of(term), call.step, ids).words(STREAM_SUBSET, (0,), 1)
    return call.ops.argsort(words[0, :, 0])


def _is_due(call: Call, term: Term) -> bool:
    """Whether the term may cost anything at this step, as far as can be told without reading a device."""
    weight = term.weight_at(call.step)
    zero = isinstance(weight, int | float) and weight == 0
    return not zero and not (term.every > 1 and isinstance(call.step, int) and call.step % term.every)


def _pass(call: Call, model: Any, x: Array, y: Any, ids: Array | None, terms: list[JacobianTerm]) -> Forward:
    """One forward pass that serves the loss and as many of `terms` as it can."""
    lowered = [term.lower() for term in terms]
    names = tuple(dict.fromkeys(term.at for term in lowered if term.side == "output"))
    # Where the step is traced, a term of `every=n` belongs into its branch, and may not make the common pass dearer.
    alone = [term for term in lowered if term.side == "input" and (term.every == 1 or isinstance(call.step, int))]
    if alone and not names:
        return input_side.input_pass(alone[0], call, model, x, y, ids)
    return forward_pass(call, model, x, y, ids, names)


def _per_sample(term: JacobianPenalty, forward: Forward) -> Array:
    """The penalty of each sample without weight and scale, shape (B,)."""
    return (engine if term.side == "output" else input_side).per_sample(term, forward)


def evaluate(call: Call, model: Any, x: Array, y: Any, reg: Regularizer | None, with_loss: bool) -> Evaluation:
    """The loss (if asked for) and the penalty of every term, with as few passes as the terms allow.

    Terms over the whole batch share one forward pass with the loss. Where the only Jacobian terms are over one part of
    the batch, the batch is split into the part and the rest: no sample is forwarded twice.
    """
    ops = call.ops
    step = _checked_step(call, x)
    call = call if step is call.step else replace(call, step=step)
    terms = () if reg is None else reg.terms
    due = [term for term in terms if _is_due(call, term)]
    batch = ops.shape(x)[0]
    ids = _ids(call, batch, x)
    over_whole: list[JacobianTerm] = []
    parts: dict[_PartKey, list[JacobianTerm]] = {}
    for term in due:
        if isinstance(term, JacobianTerm):
            if math.ceil(term.fraction * batch) >= batch:
                over_whole.append(term)
            else:
                parts.setdefault(_part_key(call, term), []).append(term)
    if parts and call.directions is not None:
        raise InputError(f"{call.name}: directions= in the call and fraction < 1 do not go together.")
    forwards: dict[_PartKey, tuple[Forward, Array]] = {}
    needs_whole = with_loss or over_whole or any(isinstance(term, ConfidencePenalty) for term in due)
    whole = None
    split = needs_whole and len(parts) == 1 and not over_whole
    if needs_whole and not split:
        whole = _pass(call, model, x, y, ids, over_whole)
    for key, members in parts.items():
        ids = ops.arange(batch, x) if ids is None else ids
        count = math.ceil(key[0] * batch)
        order = _part_order(call, members[0], ids)
        chosen = order[:count]
        labels = None if y is None else ops.take(ops.asarray(y, x), chosen)
        passed = model if whole is None and not forwards else call.without_state_changes(model)
        part = _pass(call, passed, ops.take(x, chosen), labels, ops.take(ids, chosen), members)
        forwards[key] = (part, chosen)
        if split:
            rest = model(ops.take(x, order[count:]))
            outputs = ops.take(ops.concat([part.outputs, rest], 0), ops.argsort(order))
            whole = make_forward(call, model, x, y, outputs, ids)
    like = next((each.logits for each in (whole, *(pair[0] for pair in forwards.values())) if each is not None), x)
    mean = _Mean.of(call, batch, like)

    def value(term: Term) -> Array:
        """The penalty without weight and scale."""
        if isinstance(term, WeightDecay):
            return _weight_decay(call, model, like)
        if isinstance(term, ConfidencePenalty):
            assert whole is not None
            return mean(_confidence(whole))
        if not isinstance(term, JacobianTerm):
            raise UnsupportedError(f"{call.name}: {term!r} is no term that the engine knows.")
        lowered = term.lower()
        pair = forwards.get(_part_key(call, term))
        if pair is not None:
            return mean(_per_sample(lowered, pair[0]), pair[1])
        assert whole is not None
        return mean(_per_sample(lowered, whole))

    def is_due(term: Term) -> bool:
        return any(term is each for each in due)

    def charged(term: Term) -> Array:
        """The penalty with weight, 0 where it is not due."""
        if not is_due(term):
            return ops.constant(0.0, "float32" if not is_floating(ops.dtype(like)) else ops.dtype(like), like)
        if isinstance(call.step, int) or term.every == 1:
            bare = value(term)
        else:
            bare = ops.cond(call.step % term.every == 0, lambda: value(term))
        weight = term.weight_at(call.step)
        factor = term.every * (term.lower().scale if isinstance(term, JacobianTerm) else 1)
        if ops.is_array(weight):
            # What a schedule computes has a dtype of its own, often float32, in which no penalty is meant.
            return bare * ops.astype(weight, ops.dtype(bare)) * factor
        return bare * (weight * factor)

    loss = None
    if with_loss:
        assert whole is not None
        loss = mean(whole.losses())
    penalties = tuple(charged(term) for term in terms)
    charges = tuple(each for term, each in zip(terms, penalties, strict=True) if is_due(term))
    return Evaluation(loss, penalties, charges, None if whole is None else whole.outputs)


def _checked_step(call: Call, x: Array) -> Any:
    """The step as a Python int where that costs nothing, else as it came."""
    static = call.ops.static_int(call.step)
    if static is None:
        if isinstance(call.step, int) and not isinstance(call.step, bool):
            return call.ops.int32(call.step, x)  # an int that a compiler traces: a branch on it would recompile
        require_integer_scalar(call.ops, call.name, "step", call.step)
        return call.step
    if static < 0:
        raise InputError(f"{call.name}: step must be at least 0, got {static}.")
    return static
