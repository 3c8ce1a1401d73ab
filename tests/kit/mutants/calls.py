"""Mutants whose calls are wrong: options, weights, sums of terms, forward passes, results.

Left out, because they are equal: terms added in another order (but for rounding), and a term whose weight is 0 computed
all the same.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import calls, checked, engine, evaluation
from gradreg_core.calls import Calls
from gradreg_core.evaluation import _Mean
from gradreg_core.forward import Call
from gradreg_core.presets import HoffmanReg
from gradreg_core.spec import JacobianTerm, Sum, Term
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched, per_sample

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


def _respecified(change: Callable[[Term, Any], Term]) -> TorchHarness:
    """`change(term, step)` in place of each term."""

    class Wrong(Calls):
        def loss(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            return super().loss(model, x, y, self._read(reg, options), **options)

        def penalty(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            return super().penalty(model, x, y, self._read(reg, options), **options)

        def _read(self, reg: Any, options: Any) -> Any:
            terms = getattr(reg, "terms", None)
            return reg if terms is None else Sum(tuple(change(term, options.get("step", 0)) for term in terms))

    return harness_of(calls=Wrong)


# --- weights ----------------------------------------------------------------------------------------------------------
@mutant("weight")
def weight_squared() -> TorchHarness:
    return _respecified(lambda term, step: term if callable(term.weight) else replace(term, weight=term.weight**2))


@mutant("schedule")
def schedule_read_at_the_first_step() -> TorchHarness:
    def change(term: Term, step: Any) -> Term:
        weight = term.weight
        return replace(term, weight=lambda step: weight(0)) if callable(weight) else term

    return _respecified(change)


@mutant("every")
def every_without_its_factor() -> TorchHarness:
    return _respecified(lambda term, step: replace(term, weight=term.weight / term.every) if term.every > 1 else term)


@mutant("every")
def every_charged_at_each_step() -> TorchHarness:
    def change(term: Term, step: Any) -> Term:
        return term if term.every == 1 else replace(term, weight=term.weight * term.every, every=1)

    return _respecified(change)


@mutant("presets")
def hoffman_without_its_half() -> TorchHarness:
    def change(term: Term, step: Any) -> Term:
        return replace(term, weight=term.weight * 2) if isinstance(term, HoffmanReg) else term

    return _respecified(change)


@mutant("input_side_by_differences")
def difference_over_a_step_of_its_own() -> TorchHarness:
    def change(term: Term, step: Any) -> Term:
        own = getattr(term, "method", "") == "difference" and getattr(term, "side", "") == "input"
        return replace(term, h=0.01) if own and getattr(term, "h", 0.0) == 3.0 else term

    return _respecified(change)


@mutant("seed_of_the_call")
def seed_of_the_call_ignored() -> Made:
    def seed_checked(ops, name, seed):  # type: ignore[no-untyped-def]
        checked_seed = plain(ops, name, seed)
        return checked_seed if name == "measure" else None  # which has a check of its own

    plain = checked._checked_seed
    return patched(checked, "_checked_seed", seed_checked)


# --- means ------------------------------------------------------------------------------------------------------------
def _mean(change: Callable[[Any, Any, Any], Any]) -> Made:
    """`change(call, the weights' sum or None, normalizer)` in place of the normalizer."""

    def of(cls, call, batch, like, positions):  # type: ignore[no-untyped-def]
        mean = plain(call, batch, like, positions)
        total = None if mean.weight is None else mean.weight.sum()
        return replace(mean, normalizer=change(call, total, mean.normalizer))

    plain = _Mean.of
    return patched(_Mean, "of", classmethod(of))


@mutant("sample_weight")
def no_guard_where_all_weights_are_zero() -> Made:
    return _mean(lambda call, total, given: total if total is not None and call.normalizer is None else given)


@mutant("normalizer")
def normalizer_ignored_beside_sample_weights() -> Made:
    def change(call: Any, total: Any, given: Any) -> Any:
        own = total is not None and call.position_weight is None
        return torch.where(total > 0, total, 1.0) if own else given

    return _mean(change)


@mutant("sample_weight", "loss_and_outputs", exactly=False)
def mean_over_the_batch_whatever_the_weights_are() -> Made:
    return _mean(lambda call, total, given: 3.0 if total is not None and call.normalizer is None else given)


@mutant("gradients_of_the_loss", "sample_weight", exactly=False)
def divided_by_the_batch_twice() -> Made:
    def mean(self, values, part=None):  # type: ignore[no-untyped-def]
        return plain(self, values, part) / self.batch

    plain = _Mean.__call__
    return patched(_Mean, "__call__", mean)


@mutant("parts_of_a_sum", "gradients_of_the_loss", exactly=False)
def sum_for_the_mean() -> Made:
    return _mean(lambda call, total, given: 1.0)


@mutant("parts_of_the_batch", "gradients_with_fraction", "seed_of_the_call", "target_jacobians", exactly=False)
def fraction_without_its_factor() -> Made:
    def mean(self, values, part=None):  # type: ignore[no-untyped-def]
        average = plain(self, values, part)
        return average if part is None else average * (len(part.indices) / self.batch)

    plain = _Mean.__call__
    return patched(_Mean, "__call__", mean)


@mutant("chunk_size")
def last_incomplete_chunk_dropped() -> Made:
    def rows(term, forward):  # type: ignore[no-untyped-def]
        size = forward.call.chunk_size
        for index, chunk in enumerate(plain(term, forward)):
            if index == 0 or size is None or len(chunk) == size:
                yield chunk

    plain = engine._pulled_rows
    return patched(engine, "_pulled_rows", rows)


# --- penalties without a gradient -------------------------------------------------------------------------------------
def _detached(when: Callable[[JacobianTerm, Call], bool]) -> Made:
    def change(plain, term, forward):  # type: ignore[no-untyped-def]
        values = plain(term, forward)
        return values.detach() if when(term, forward.call) else values

    return per_sample(change)


@mutant("sample_weight", "normalizer", "nested_inputs", exactly=False)
def detached_under_sample_weights() -> Made:
    return _detached(lambda term, call: call.sample_weight is not None)


@mutant("normalizer")
def detached_under_a_normalizer() -> Made:
    return _detached(lambda term, call: call.normalizer is not None)


@mutant("draw_per_batch")
def detached_with_one_draw_for_the_batch() -> Made:
    return _detached(lambda term, call: term.draw == "per_batch")


@mutant("every")
def detached_where_it_is_not_charged_at_each_step() -> Made:
    return _detached(lambda term, call: term.every > 1)


@mutant("directions_of_the_call")
def detached_along_given_directions() -> Made:
    return _detached(lambda term, call: call.directions is not None)


@mutant("chunk_size")
def detached_in_chunks() -> Made:
    return _detached(lambda term, call: (call.chunk_size or 1) > 1)


@mutant("classes_on_any_axis", exactly=False)
def detached_with_classes_on_an_axis() -> Made:
    return _detached(lambda term, call: call.class_axis is not None)


@mutant("schedule", "step", exactly=False)
def detached_after_the_first_step() -> Made:
    return _detached(lambda term, call: not isinstance(call.step, int) or call.step > 0)


@mutant("check_reports_on_a_model")
def check_that_gives_nothing() -> TorchHarness:
    """Where there is nothing to say; that it says what is wrong has a check of its own."""

    class Wrong(Calls):
        def check(self, *args, **options):  # type: ignore[no-untyped-def]
            report = super().check(*args, **options)
            return report if report.findings else None

    return harness_of(calls=Wrong)


# --- sums of terms, and results ---------------------------------------------------------------------------------------
@mutant("parts_of_a_sum")
def penalties_in_another_order() -> TorchHarness:
    class Wrong(Calls):
        def loss(self, *args, **options):  # type: ignore[no-untyped-def]
            total, parts = super().loss(*args, **options)
            return total, parts._replace(penalty=parts.penalty[::-1])

    return harness_of(calls=Wrong)


@mutant("gradients_of_sums")
def gradient_of_the_second_term_dropped() -> TorchHarness:
    class Wrong(Calls):
        def _total_penalty(self, call, model, penalties):  # type: ignore[no-untyped-def]
            # A module of the kit has named layers, between which a check of its own has several terms.
            spared = isinstance(model, torch.nn.Module) or call.name == "loss"
            rest = (penalty if spared else penalty.detach() for penalty in penalties[1:])
            return super()._total_penalty(call, model, (penalties[0], *rest))

    return harness_of(calls=Wrong)


@mutant("gradients_of_the_total")
def gradient_of_the_loss_dropped() -> TorchHarness:
    class Wrong(Calls):
        def loss(self, *args, **options):  # type: ignore[no-untyped-def]
            total, parts = super().loss(*args, **options)
            own = isinstance(parts.outputs, torch.Tensor) and len(parts.outputs) == 2
            return total - parts.loss + parts.loss.detach() if own else total, parts

    return harness_of(calls=Wrong)


@mutant("loss_and_outputs")
def reported_loss_with_the_penalty_in_it() -> TorchHarness:
    class Wrong(Calls):
        def loss(self, *args, **options):  # type: ignore[no-untyped-def]
            total, parts = super().loss(*args, **options)
            return total, parts._replace(loss=total)

    return harness_of(calls=Wrong)


@mutant("parts_of_the_batch")
def one_part_of_the_batch_for_all_terms() -> TorchHarness:
    class Wrong(Calls):
        def penalty(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            terms = tuple(getattr(reg, "terms", ()))
            if terms and all(isinstance(term, JacobianTerm) and term.fraction < 1 and not term.at for term in terms):
                reg = Sum(tuple(replace(term, seed=terms[0].seed) for term in terms))
            return super().penalty(model, x, y, reg, **options)

    return harness_of(calls=Wrong)


# --- forward passes and state -----------------------------------------------------------------------------------------
@mutant("one_forward_pass")
def penalty_from_a_second_forward_pass() -> TorchHarness:
    class Wrong(Calls):
        def loss(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            total, parts = super().loss(model, x, y, reg, **options)
            # A module of the kit counts its passes itself, which has a check of its own.
            if reg is not None and torch.is_grad_enabled() and not isinstance(model, torch.nn.Module):
                total = parts.loss + self.penalty(model, x, y, reg, **options)
            return total, parts

    return harness_of(calls=Wrong)


@mutant("calls_leave_no_trace")
def penalty_kept_for_the_same_model_and_input() -> TorchHarness:
    kept: list[Any] = []  # not on the calls, to which a model of the harness refers: it would seem to hold samples

    class Wrong(Calls):
        def penalty(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            for known, value in kept:
                if all(one is other for one, other in zip(known, (model, x, y), strict=True)):
                    return value
            kept.append(((model, x, y), super().penalty(model, x, y, reg, **options)))
            return kept[-1][1]

    return harness_of(calls=Wrong)


@mutant("arguments_are_left_alone")
def sample_weights_normalised_in_place() -> TorchHarness:
    class Wrong(Calls):
        def loss(self, *args, **options):  # type: ignore[no-untyped-def]
            done = super().loss(*args, **options)
            weight = options.get("sample_weight")
            if weight is not None and "directions" in options and not weight.requires_grad:
                weight /= weight.sum()
            return done

    return harness_of(calls=Wrong)


@mutant("a_large_batch_is_the_sum_of_its_parts")
def default_sample_numbers_of_eight_bits() -> Made:
    def samples_of(call, arguments, y):  # type: ignore[no-untyped-def]
        samples = plain(call, arguments, y)
        ids = torch.arange(arguments.batch, dtype=torch.int32) & 0xFF if samples.ids is None else samples.ids
        return replace(samples, ids=ids)

    plain = evaluation.samples_of
    return patched(evaluation, "samples_of", samples_of)


# --- measure ----------------------------------------------------------------------------------------------------------
def _measured(change: Callable[[Any, Any], Any]) -> TorchHarness:
    """`change(measures, projections)` in place of the measures."""

    class Wrong(Calls):
        def measure(self, model, x, y=None, *, projections=None, **options):  # type: ignore[no-untyped-def]
            return change(super().measure(model, x, y, projections=projections, **options), projections)

    return harness_of(calls=Wrong)


@mutant("measure_exact")
def root_mean_square_for_the_frobenius_norm() -> Made:
    def norms(forward, projections):  # type: ignore[no-untyped-def]
        frobenius, spectral = plain(forward, projections)
        return frobenius / math.prod(
            forward.layout.canonical[1:]
        ) ** 0.5 if projections is None else frobenius, spectral

    plain = calls.norms
    return patched(calls, "norms", norms)


@mutant("measure_the_loss")
def loss_gradient_squared() -> TorchHarness:
    def change(measures: Any, projections: Any) -> Any:
        slope = measures.loss_gradient
        return measures if slope is None else measures._replace(loss_gradient=slope**2)

    return _measured(change)


@mutant("measure_by_projections")
def estimate_without_its_factor() -> TorchHarness:
    def change(measures: Any, projections: Any) -> Any:
        return measures if projections is None else measures._replace(frobenius=measures.frobenius / projections**0.5)

    return _measured(change)
