"""Mutants that are right with each option alone, and wrong with two of them together."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import engine, evaluation, input_side, outputs
from gradreg_core.evaluation import _Batch, _Mean, _part_order
from gradreg_core.forward import Call, Forward, Samples
from gradreg_core.presets import ConfidencePenalty
from gradreg_core.spec import Term
from gradreg_core.terms import Sum
from gradreg_torch.harness import TorchHarness
from mutants.calls import _respecified
from mutants.mutant import harness_of, mutant, output, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]
_JOINT = "calls_with_all_options"


# --- parts of the batch -----------------------------------------------------------------------------------------------
@mutant(_JOINT, exactly=False)
def part_drawn_by_position_although_numbers_are_given() -> Made:
    def order(call, term, ids):  # type: ignore[no-untyped-def]
        return _part_order(call, term, torch.arange(len(ids), dtype=torch.int32))

    return patched(evaluation, "_part_order", order)


def _cut(name: str) -> Made:
    """The first samples' own in place of the drawn samples', for one of what is cut."""
    plain = Samples.take

    def take(self, indices):  # type: ignore[no-untyped-def]
        cut, own = plain(self, indices), getattr(self, name)
        return cut if own is None else replace(cut, **{name: own[: len(indices)]})

    return patched(Samples, "take", take)


@mutant(_JOINT, exactly=False)
def part_with_the_labels_of_the_first_samples() -> Made:
    return _cut("y")


@mutant(_JOINT, exactly=False)
def part_with_the_numbers_of_the_first_samples() -> Made:
    return _cut("ids")


@mutant(_JOINT, exactly=False)
def part_with_the_position_weights_of_the_first_samples() -> Made:
    return _cut("position_weight")


@mutant(_JOINT, exactly=False)
def part_with_the_sample_weights_of_the_first_samples() -> Made:
    plain = _Mean.__call__

    def mean(self, values, part=None):  # type: ignore[no-untyped-def]
        if part is None or self.weight is None:
            return plain(self, values, part)
        count = len(part.indices)
        chosen = values if part.is_cut else values[part.indices.long()]
        return (chosen * self.weight[:count]).sum() * (self.batch / count) / self.normalizer

    return patched(_Mean, "__call__", mean)


# --- sums -------------------------------------------------------------------------------------------------------------
def _summed(change: Callable[[tuple[Term, ...]], tuple[Term, ...]]) -> TorchHarness:
    """`change(terms)` in place of the terms of a sum."""
    from gradreg_core.calls import Calls

    class Wrong(Calls):
        def _evaluated(self, call, model, x, y, reg, batch_norm):  # type: ignore[no-untyped-def]
            terms = getattr(reg, "terms", ())
            reg = Sum(change(terms)) if len(terms) > 1 else reg
            return super()._evaluated(call, model, x, y, reg, batch_norm)

    return harness_of(calls=Wrong)


@mutant(_JOINT, exactly=False)
def equal_terms_counted_once() -> TorchHarness:
    return _summed(lambda terms: tuple(dict.fromkeys(terms)))


@mutant(_JOINT, exactly=False)
def weight_of_the_first_term_for_all() -> TorchHarness:
    return _summed(lambda terms: tuple(replace(term, weight=terms[0].weight) for term in terms))


@mutant(_JOINT, exactly=False)
def every_of_the_first_term_for_all() -> TorchHarness:
    return _summed(lambda terms: tuple(replace(term, every=terms[0].every) for term in terms))


@mutant(_JOINT, exactly=False)
def every_without_its_factor_in_a_sum() -> TorchHarness:
    def change(term: Term) -> Term:
        fixed = term.every == 1 or callable(term.weight)
        return term if fixed else replace(term, weight=term.weight / term.every)

    return _summed(lambda terms: (terms[0], *map(change, terms[1:])))


@mutant(_JOINT, exactly=False)
def seed_of_the_first_term_for_all() -> TorchHarness:
    def change(terms: tuple[Term, ...]) -> tuple[Term, ...]:
        seed = getattr(terms[0], "seed", 0)
        return tuple(replace(term, seed=seed) if hasattr(term, "seed") else term for term in terms)

    return _summed(change)


@mutant(_JOINT, exactly=False)
def draw_of_the_first_term_for_all() -> TorchHarness:
    def change(terms: tuple[Term, ...]) -> tuple[Term, ...]:
        draw = getattr(terms[0], "draw", "per_sample")
        return tuple(replace(term, draw=draw) if hasattr(term, "draw") else term for term in terms)

    return _summed(change)


@mutant(_JOINT)
def half_of_the_convention_lost_with_a_schedule() -> TorchHarness:
    def change(term: Term, step: Any) -> Term:
        weight = term.weight
        if not callable(weight) or term.factor == 1:
            return term
        return replace(term, weight=lambda step: weight(step) / term.factor)

    return _respecified(change)


@mutant(_JOINT, exactly=False)
def schedule_without_every() -> TorchHarness:
    def change(term: Term, step: Any) -> Term:
        weight = term.weight
        return replace(term, weight=lambda step: weight(step) / term.every) if callable(weight) else term

    return _respecified(change)


# --- the side of the input --------------------------------------------------------------------------------------------
def _pushed(change: Callable[..., tuple[Any, Any, Any]]) -> Made:
    """`change(term, call, ids)` in place of these three where directions in the space of the input are drawn."""

    def draws_of(term, call, batch, ids, like):  # type: ignore[no-untyped-def]
        return plain(*change(term, call, ids)[:2], batch, change(term, call, ids)[2], like)

    plain = engine.draws_of
    return patched(input_side, "draws_of", draws_of)


@mutant(_JOINT, exactly=False)
def step_ignored_on_the_side_of_the_input() -> Made:
    return _pushed(lambda term, call, ids: (term, replace(call, step=0), ids))


@mutant(_JOINT, exactly=False)
def seed_of_the_call_ignored_on_the_side_of_the_input() -> Made:
    return _pushed(lambda term, call, ids: (term, replace(call, seed=None), ids))


@mutant(_JOINT, exactly=False)
def seed_of_the_term_ignored_on_the_side_of_the_input() -> Made:
    return _pushed(lambda term, call, ids: (replace(term, seed=0), call, ids))


@mutant(_JOINT, exactly=False)
def numbers_ignored_on_the_side_of_the_input() -> Made:
    return _pushed(lambda term, call, ids: (term, call, None))


@mutant(_JOINT, exactly=False)
def draw_per_batch_ignored_on_the_side_of_the_input() -> Made:
    return _pushed(lambda term, call, ids: (replace(term, draw="per_sample"), call, ids))


@mutant(_JOINT, exactly=False)
def rows_added_on_the_side_of_the_input() -> Made:
    def reduced(ops, term, chunks):  # type: ignore[no-untyped-def]
        k = getattr(term.projection, "k", 1)
        return plain(ops, term, (rows * k**0.5 for rows in chunks))

    plain = input_side.reduced
    return patched(input_side, "reduced", reduced)


@mutant(_JOINT, exactly=False)
def weights_of_positions_ignored_on_the_side_of_the_input() -> Made:
    def slope(term, base, pushed):  # type: ignore[no-untyped-def]
        unweighted = replace(base, samples=replace(base.samples, position_weight=None))
        return plain(term, unweighted if base.call.ignore_index is None else base, pushed)

    plain = input_side._slope
    return patched(input_side, "_slope", slope)


# --- the loss, and terms without a Jacobian ---------------------------------------------------------------------------
def _loss(change: Callable[[Call], Call]) -> Made:
    """The data's loss under other options of the call than the penalty."""

    def losses(forward):  # type: ignore[no-untyped-def]
        return plain(replace(forward, call=change(forward.call)))

    plain = outputs.losses
    return patched(evaluation, "losses", losses)


@mutant(_JOINT, exactly=False)
def normalizer_ignored_by_the_loss() -> Made:
    plain = _Batch.mean

    def mean(self, values):  # type: ignore[no-untyped-def]
        given = self._mean
        if self.passes.call.normalizer is None:
            return plain(self, values)
        whole = float(given.batch) if given.weight is None else given.weight.sum()
        return replace(given, normalizer=whole)(values)

    return patched(_Batch, "mean", mean)


@mutant(_JOINT, exactly=False)
def sample_weight_not_applied_to_the_confidence_penalty() -> Made:
    plain = ConfidencePenalty.value

    def value(self, batch):  # type: ignore[no-untyped-def]
        kept, batch._mean = batch._mean, replace(batch._mean, weight=None)
        try:
            return plain(self, batch)
        finally:
            batch._mean = kept

    return patched(ConfidencePenalty, "value", value)


@mutant("labels_of_every_kind")
def confidence_of_the_first_position_alone() -> Made:
    plain = Forward.mean_over_positions

    def mean(self, values):  # type: ignore[no-untyped-def]
        alone = self.call.class_axis == 1 and values.shape[1] > 1 and values.requires_grad
        return values[:, 0] if alone and self.position_weight is None else plain(self, values)

    return patched(Forward, "mean_over_positions", mean)


# --- dense outputs ----------------------------------------------------------------------------------------------------
def _dense(forward: Forward) -> bool:
    return forward.layout.canonical[1] > 1


@mutant(_JOINT, exactly=False)
def log_probabilities_of_all_positions_together() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        f = forward.probabilities("")
        return w - f * w.sum((-2, -1), keepdim=True) if _dense(forward) else pulled

    return output("log_probabilities", pull=change)


@mutant("labels_of_every_kind", exactly=False)
def loss_of_the_caller_summed_over_dense_outputs() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        own = forward.call.loss_fn is not None and _dense(forward)
        return pulled * forward.layout.canonical[1] if own else pulled

    return output("loss", pull=change)


@mutant(_JOINT, exactly=False)
def soft_labels_of_dense_outputs_detached() -> Made:
    def change(forward, w, pulled):  # type: ignore[no-untyped-def]
        own = forward.call.loss_fn is None and _dense(forward) and not forward.target("").hard
        return pulled.detach() if own else pulled

    return output("loss", pull=change)


@mutant(_JOINT, exactly=False)
def softmax_detached_where_the_classes_are_first() -> Made:
    plain = Forward.probabilities

    def probabilities(self, asker):  # type: ignore[no-untyped-def]
        f = plain(self, asker)
        return f.detach() if self.call.class_axis == 1 else f

    return patched(Forward, "probabilities", probabilities)


@mutant(_JOINT, exactly=False)
def chunks_detached_beside_other_terms() -> Made:
    def pulled(term, forward):  # type: ignore[no-untyped-def]
        for index, rows in enumerate(plain(term, forward)):
            yield rows.detach() if index and term.at is not None else rows

    plain = engine._pulled_rows
    return patched(engine, "_pulled_rows", pulled)
