"""Mutants that accept what they should refuse, and give a wrong number, or keep what an error should undo."""

import math
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import calls, checked, engine, evaluation, forward, input_side, labels, outputs
from gradreg_core.calls import Calls
from gradreg_core.errors import GradregError
from gradreg_core.forward import Call
from gradreg_core.labels import Target
from gradreg_core.layout import Layout
from gradreg_core.targets import target_array
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]
_MISUSE, _VALUES = "misuse_is_refused", "wrong_values_are_refused"


def _called(change: Any) -> Made:
    """`change(call)` in place of the arguments of each call."""
    plain = calls.checked

    def altered(call: Call, *others: Any) -> Any:
        came, arguments = plain(call, *others)
        return change(came), arguments

    return patched(calls, "checked", altered)


@mutant(_MISUSE)
def weights_in_a_column() -> Made:
    def flat(call: Call) -> Call:
        weight = call.sample_weight
        return call if weight is None else replace(call, sample_weight=torch.as_tensor(weight).reshape(-1))

    return _called(flat)


@mutant(_MISUSE)
def a_normalizer_of_any_sign() -> Made:
    return patched(evaluation, "positive_scalar", lambda ops, call, name, value, like: value)


@mutant(_MISUSE)
def fractions_as_sample_ids() -> Made:
    def whole(call: Call) -> Call:
        ids = call.sample_ids
        return replace(call, sample_ids=ids.long()) if isinstance(ids, torch.Tensor) else call

    return _called(whole)


@mutant(_MISUSE)
def the_last_class_axis_for_one_that_is_not_there() -> Made:
    plain = Layout.of

    def of(call, shape, batch, axis):  # type: ignore[no-untyped-def]
        outside = axis is not None and (axis == 0 or abs(axis) >= max(2, len(shape)))
        return plain(call, shape, batch, -1 if outside else axis)

    return patched(Layout, "of", of)


@mutant(_MISUSE)
def one_row_of_outputs_for_all_samples() -> Made:
    plain = forward.make_forward

    def made(call, model, samples, passed, pushed=None):  # type: ignore[no-untyped-def]
        outputs = passed.outputs
        if outputs.shape[0] == 1:
            passed = replace(passed, outputs=outputs.expand(samples.batch, *outputs.shape[1:]))
        return plain(call, model, samples, passed, pushed)

    return patched(forward, "make_forward", made)


@mutant(_MISUSE)
def a_target_in_any_shape() -> Made:
    def reshaped(term, forward, rows, pulled):  # type: ignore[no-untyped-def]
        wanted = (*forward.layout.shape, *pulled.shape[2:])
        samples = forward.samples
        if samples.target.numel() == math.prod(wanted):
            samples = replace(samples, target=samples.target.reshape(wanted))
        return target_array(term, replace(forward, samples=samples), rows, pulled)

    return patched(engine, "target_array", reshaped)


@mutant(_MISUSE)
def a_loss_of_pairs_averaged() -> Made:
    plain = outputs._custom_losses

    def losses(forward, outputs):  # type: ignore[no-untyped-def]
        try:
            return plain(forward, outputs)
        except GradregError:
            returned = forward.call.loss_fn(outputs, forward.y)
            if returned.numel() <= outputs.numel():
                raise
            return returned.reshape(len(outputs), -1).mean(1)

    return patched(outputs, "_custom_losses", losses)


@mutant(_MISUSE)
def the_likeliest_class_of_soft_labels() -> Made:
    plain = Target.basis

    def basis(self, asker):  # type: ignore[no-untyped-def]
        if self.hard:
            return plain(self, asker)
        picked = torch.nn.functional.one_hot(self.labels.argmax(-1), self.canonical[2])
        return picked.to(self.labels.dtype).reshape(self.canonical)

    return patched(Target, "basis", basis)


@mutant(_MISUSE)
def step_0_where_a_schedule_needs_one() -> Made:
    return patched(checked, "_require_no_step", lambda name, reg: None)


@mutant(_MISUSE)
def a_difference_of_halves() -> Made:
    return patched(input_side, "is_half", lambda dtype: False)


@mutant(_VALUES)
def infinite_outputs_taken() -> Made:
    return patched(forward, "_all_finite", lambda values: not math.isnan(values.sum()) or math.isinf(values.max()))


@mutant(_VALUES)
def negative_weights_taken_for_zero() -> Made:
    plain = evaluation.weights

    def clamped(ops, call, name, array, dtype):  # type: ignore[no-untyped-def]
        return plain(ops, call, name, array.clamp(min=0) if array.is_floating_point() else array, dtype)

    return patched(evaluation, "weights", clamped)


@mutant(_VALUES)
def soft_labels_with_any_sum() -> Made:
    plain = labels._check_values

    def values(ops, call, given, hard, classes):  # type: ignore[no-untyped-def]
        return True if not hard and classes > 1 else plain(ops, call, given, hard, classes)

    return patched(labels, "_check_values", values)


@mutant("misuse_is_refused")
def coupled_samples_with_the_policy_error() -> Made:
    return patched(calls, "refuse_coupling", lambda *arguments: None)


@mutant("calls_after_an_error")
def gradients_kept_after_an_error() -> Made:
    plain = Calls._evaluated

    def evaluated(self, *arguments):  # type: ignore[no-untyped-def]
        try:
            return plain(self, *arguments)
        except Exception:
            torch.set_grad_enabled(True)
            raise

    return patched(Calls, "_evaluated", evaluated)
