"""Mutants that compute, or answer, in the wrong floating-point type."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gradreg_core import engine
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []
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
