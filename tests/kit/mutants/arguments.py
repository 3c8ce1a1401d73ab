"""Mutants that are right for arguments in one form and wrong for the same numbers in another, or lose a gradient."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradreg_core import calls, engine, forward
from gradreg_core.evaluation import _Batch
from gradreg_core.forward import Call
from gradreg_core.projections import direction
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant, patched

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
