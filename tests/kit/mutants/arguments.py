"""Mutants that are right for arguments in one form and wrong for the same numbers in another, or lose a gradient."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradreg_core import calls, engine, forward, input_side
from gradreg_core.calls import Calls
from gradreg_core.evaluation import _Batch, _Mean
from gradreg_core.forward import Call
from gradreg_core.projections import direction
from gradreg_core.results import Parts
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]
_FORMS, _COMPUTED = "arguments_in_every_form", "gradients_of_what_the_caller_computes"


def _option(name: str, change: Callable[[Any], Any]) -> Made:
    """`change(value)` in place of an option that is given."""
    plain = calls.checked

    def altered(call: Call, *others: Any) -> Any:
        came, arguments = plain(call, *others)
        value = getattr(came, name)
        return (came if value is None else replace(came, **{name: change(value)})), arguments

    return patched(calls, "checked", altered)


def _is(value: Any, *dtypes: torch.dtype) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype in dtypes


@mutant(_FORMS)
def a_mask_of_samples_ignored() -> Made:
    return _option("sample_weight", lambda value: None if _is(value, torch.bool) else value)


@mutant(_FORMS)
def whole_numbers_as_weights_taken_for_a_mask() -> Made:
    return _option("sample_weight", lambda value: value > 0 if _is(value, torch.int32) else value)


@mutant(_FORMS)
def whole_numbers_as_weights_of_positions_taken_for_a_mask() -> Made:
    return _option("position_weight", lambda value: value > 0 if _is(value, torch.int32) else value)


@mutant(_FORMS)
def a_list_of_sample_ids_ignored() -> Made:
    return _option("sample_ids", lambda value: None if isinstance(value, list) else value)


@mutant(_FORMS)
def numbers_of_samples_made_positive() -> Made:
    return _option("sample_ids", lambda value: abs(value) if isinstance(value, torch.Tensor) else value)


@mutant(_FORMS)
def sample_ids_of_8_bits_with_a_sign() -> Made:
    return _option("sample_ids", lambda value: value.to(torch.int8) if _is(value, torch.uint8) else value)


@mutant(_FORMS)
def equal_sample_ids_numbered_anew() -> Made:
    def distinct(value: Any) -> Any:
        return None if len(np.unique(np.asarray(value))) < len(value) else value

    return _option("sample_ids", distinct)


@mutant(_FORMS)
def a_normalizer_in_an_array_ignored() -> Made:
    return _option("normalizer", lambda value: None if isinstance(value, torch.Tensor) else value)


@mutant("normalizer")
def a_normalizer_rounded_down() -> Made:
    return _option("normalizer", lambda value: value // 1 if isinstance(value, float) and value > 1 else value)


def _constant(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


@mutant(_COMPUTED)
def sample_weights_as_constants() -> Made:
    return _option("sample_weight", _constant)


@mutant(_COMPUTED)
def directions_as_constants() -> Made:
    plain = direction._given
    return patched(direction, "_given", lambda self, context: plain(self, context).detach())


@mutant(_COMPUTED)
def the_weight_of_a_schedule_as_a_constant() -> Made:
    plain = _Batch._checked_weight
    return patched(_Batch, "_checked_weight", lambda *arguments: plain(*arguments).detach())


@mutant(_COMPUTED)
def soft_labels_as_constants() -> Made:
    plain = forward.prepare_target

    def prepared(ops, call, y, *others):  # type: ignore[no-untyped-def]
        return plain(ops, call, _constant(y), *others)

    return patched(forward, "prepare_target", prepared)


class _FirstDerivative(torch.autograd.Function):
    """The identity, whose derivative is right once and a constant to the next one."""

    @staticmethod
    def forward(x: Any) -> Any:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        return slope.detach()


@mutant("the_gradient_is_differentiated_again")
def gradients_that_are_differentiated_once() -> Made:
    plain = engine._pulled_rows

    def rows(term, forward):  # type: ignore[no-untyped-def]
        for pulled in plain(term, forward):
            yield _FirstDerivative.apply(pulled)

    return patched(engine, "_pulled_rows", rows)


@mutant(_COMPUTED)
def weights_of_positions_as_constants() -> Made:
    return _option("position_weight", _constant)


@mutant(_COMPUTED)
def the_normalizer_as_a_constant() -> Made:
    return _option("normalizer", _constant)


@mutant(_COMPUTED)
def directions_in_the_input_as_constants() -> Made:
    plain = input_side._directions

    def directions(*arguments: Any, **options: Any) -> Any:
        yield from (row if row is None else row.detach() for row in plain(*arguments, **options))

    return patched(input_side, "_directions", directions)


@mutant(_COMPUTED)
def outputs_that_come_back_as_constants() -> Made:
    def parts(loss: Any, penalty: Any, outputs: Any) -> Parts:
        return Parts(loss, penalty, outputs.detach() if isinstance(outputs, torch.Tensor) else outputs)

    return patched(calls, "Parts", parts)


@mutant(_COMPUTED)
def weights_of_a_part_as_constants() -> Made:
    plain = _Mean.__call__

    def mean(self, values, part=None):  # type: ignore[no-untyped-def]
        weighed = part is not None and self.weight is not None
        return plain(replace(self, weight=self.weight.detach()) if weighed else self, values, part)

    return patched(_Mean, "__call__", mean)


@mutant("outputs_come_back_as_returned")
def outputs_in_a_structure_that_come_back_as_constants() -> Made:
    plain = calls._finished

    def finished(ops: Any, returned: Any) -> Any:
        if isinstance(returned, torch.Tensor):
            return plain(ops, returned)
        leaves, rebuild = ops.flatten(returned)
        return rebuild([leaf.detach() for _, leaf in leaves])

    return patched(calls, "_finished", finished)


@mutant("the_gradient_is_differentiated_again")
def a_penalty_that_is_linear_to_its_second_derivative() -> TorchHarness:
    class Wrong(Calls):
        def penalty(self, *arguments, **options):  # type: ignore[no-untyped-def]
            return _FirstDerivative.apply(super().penalty(*arguments, **options))

    return harness_of(calls=Wrong)
