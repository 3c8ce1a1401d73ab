"""Mutants that compute, or answer, in the wrong floating-point type."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from gradreg_core import engine, evaluation, input_side, inputs, outputs, presets
from gradreg_core.evaluation import _Batch
from gradreg_core.forward import Forward
from gradreg_core.layout import HALF
from gradreg_core.presets import ConfidencePenalty
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]
_HALVES = (torch.float16, torch.bfloat16)


@mutant("results_are_scalars_in_float32_or_better")
def penalties_in_float64() -> TorchHarness:
    class Wrong(TorchBackend):
        def finish(self, value):  # type: ignore[no-untyped-def]
            return super().finish(value.double())

    return harness_of(Wrong())


@mutant("small_gradients_do_not_underflow", "ranges_of_half_precision")
@contextmanager
def squares_in_half_precision() -> Iterator[TorchHarness]:
    class Wrong(TorchBackend):
        def finish(self, value):  # type: ignore[no-untyped-def]
            return super().finish(value.float() if value.dtype in _HALVES else value)

    with patched(engine, "widened", lambda ops, array: array):
        yield harness_of(Wrong())


@mutant("small_gradients_do_not_underflow")
def small_numbers_lost_where_half_precision_is_widened() -> Any:
    def widened(ops, array):  # type: ignore[no-untyped-def]
        wide = plain(ops, array)
        return torch.where(wide.abs() < 2e-4, 0.0, wide) if array.dtype in _HALVES else wide

    plain = engine.widened
    return patched(engine, "widened", widened)


@mutant("half_precision")
def half_precision_cut_off_where_it_is_widened() -> TorchHarness:
    class Wrong(TorchBackend):
        def astype(self, array: Any, dtype: str) -> Any:
            return super().astype(array.detach() if array.dtype in _HALVES else array, dtype)

    return harness_of(Wrong())


# --- mixed precision --------------------------------------------------------------------------------------------------
_HALF = "half_precision_beside_float32"


@mutant(_HALF)
def squares_in_the_type_of_the_input() -> Made:
    plain = engine.pullback_of

    def pullback_of(term, forward):  # type: ignore[no-untyped-def]
        pull, half = plain(term, forward), forward.samples.like.dtype == torch.float16
        return lambda w: pull(w).half() if half and forward.dtype == "float32" else pull(w)

    return patched(engine, "pullback_of", pullback_of)


@mutant(_HALF)
def tangents_squared_in_half_precision() -> Made:
    return patched(input_side, "widened", lambda ops, array: array)


@mutant(_HALF)
def losses_of_the_caller_added_in_half_precision() -> Made:
    return patched(outputs, "widened", lambda ops, array: array)


@mutant(_HALF)
def the_cross_entropy_in_half_precision() -> Made:
    plain = evaluation.losses

    def losses(forward: Forward) -> Any:
        values = plain(forward)
        narrow = forward.dtype in HALF and forward.call.loss_fn is None
        return values.to(getattr(torch, forward.dtype)).float() if narrow else values

    return patched(evaluation, "losses", losses)


@mutant(_HALF)
def inputs_in_the_type_of_the_first() -> Made:
    plain = inputs.pack
    return patched(inputs, "pack", lambda ops, arrays: plain(ops, [array.to(arrays[0].dtype) for array in arrays]))


@mutant("ranges_of_half_precision")
def weights_that_decay_in_half_precision() -> Made:
    return patched(presets, "widened", lambda ops, array: array)


@mutant("results_are_scalars_in_float32_or_better")
def the_weight_of_a_schedule_in_its_own_type() -> Made:
    return patched(_Batch, "_checked_weight", lambda self, term, weight, value: weight)


@mutant("results_are_scalars_in_float32_or_better")
def nothing_due_in_half_precision() -> Made:
    return patched(_Batch, "zero", lambda self: torch.zeros((), dtype=self.passes.like.dtype))


@mutant(_HALF)
def the_entropy_in_half_precision() -> Made:
    plain = ConfidencePenalty.value

    def value(self, batch):  # type: ignore[no-untyped-def]
        entropy = plain(self, batch)
        return entropy.half().float() if batch.forward.dtype == "float16" else entropy

    return patched(ConfidencePenalty, "value", value)
