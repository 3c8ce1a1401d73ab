"""Mutants that are not as they say, and that accept what they should refuse."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from gradreg_conformance.subject import Subject
from gradreg_core import forward
from gradreg_core.plugins.dispatch import find_backend
from gradreg_core.portable.networks import LayerNorm
from gradreg_torch.backend import TorchBackend
from gradreg_torch.eager import EagerBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []


def _declaring(*capabilities: str) -> Any:
    """The backend as it is, with these capabilities in its description."""
    described = find_backend("torch").description
    assert described is not None
    wrong = replace(described, capabilities=capabilities)
    return patched(Subject, "description", property(lambda subject: wrong))


@mutant("description_fits_the_backend")
def a_capability_that_nobody_knows() -> Any:
    return _declaring("host_checks", "named_activations", "batched_pulback")


@mutant("capabilities_are_those_declared")
def rows_that_are_not_pulled_at_once() -> Any:
    return _declaring("host_checks", "named_activations", "batched_pullback")


@mutant("capabilities_are_those_declared")
def values_that_are_read_but_not_declared() -> Any:
    return _declaring("named_activations")


@mutant("named_activations")
def names_that_are_not_declared() -> Any:
    return _declaring("host_checks")


@mutant("capabilities_are_those_declared")
@contextmanager
def branches_that_are_not_skipped() -> Iterator[TorchHarness]:
    with _declaring("host_checks", "named_activations", "traced_branch") as harness:
        harness.compiled = lambda function, mode: (function, lambda: 1) if mode == "func" else None
        yield harness


@mutant("capabilities_are_those_declared")
def values_that_are_declared_and_not_read() -> TorchHarness:
    class Wrong(TorchBackend):
        def values_if_free(self, array):  # type: ignore[no-untyped-def]
            return None

    return harness_of(Wrong())


@mutant("capabilities_are_those_declared", "many_rows_are_pulled_back")
def rows_pulled_at_once_and_not_declared() -> TorchHarness:
    class Wrong(TorchBackend):
        def pull_rows(self, pullback, rows):  # type: ignore[no-untyped-def]
            if len(rows) < 8:
                return super().pull_rows(pullback, rows)
            return torch.stack([pullback(rows[0])] * len(rows))

    return harness_of(Wrong())


@mutant("backend_has_every_primitive")
def a_backend_of_its_own_kind() -> TorchHarness:
    class Wrong:
        """Has every method, but does not inherit from Backend."""

        def __init__(self) -> None:
            self.backend = TorchBackend(EagerBackend)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.backend, name)

    return harness_of(Wrong())  # type: ignore[arg-type]


@mutant("harness_is_complete")
def a_harness_without_versions() -> TorchHarness:
    harness = harness_of()
    harness.versions = {}
    return harness


@mutant("harness_is_complete", exactly=False)
def a_harness_that_makes_scalars_vectors() -> TorchHarness:
    class Wrong(TorchHarness):
        def array(self, values, dtype, device):  # type: ignore[no-untyped-def]
            return super().array(np.ascontiguousarray(values), dtype, device)

    harness = Wrong()
    harness.modes = ("eager", "func")
    return harness


@mutant("layers_are_those_declared")
def a_layer_that_is_not_declared() -> TorchHarness:
    harness = harness_of()
    harness.layers = harness.layers - {LayerNorm}
    return harness


def _to_outputs(pairs: Any) -> bool:
    """Whether all pairs (of, at) are of the outputs; others have a check of their own."""
    return all(of is None for of, _ in pairs)


@mutant("named_activations")
def a_name_that_is_ignored() -> TorchHarness:
    class Wrong(TorchBackend):
        def model_vjp(self, model, apply, x, pairs):  # type: ignore[no-untyped-def]
            named = isinstance(model, torch.nn.Module) and any(at is not None for _, at in pairs) and _to_outputs(pairs)
            passed = super().model_vjp(model, apply, x, [(None, None)] if named else pairs)
            return replace(passed, pullbacks=dict.fromkeys(pairs, passed.pullbacks[None, None])) if named else passed

    return harness_of(Wrong())


@mutant("named_activations")
def a_name_whose_penalty_has_no_gradient() -> TorchHarness:
    class Wrong(TorchBackend):
        def model_vjp(self, model, apply, x, pairs):  # type: ignore[no-untyped-def]
            passed = super().model_vjp(model, apply, x, pairs)
            if not isinstance(model, torch.nn.Module) or not _to_outputs(pairs):
                return passed
            at = {pair: pull for pair, pull in passed.pullbacks.items() if pair[1] is not None}
            detached = {pair: (lambda w, pull=pull: pull(w).detach()) for pair, pull in at.items()}
            return replace(passed, pullbacks=passed.pullbacks | detached)

    return harness_of(Wrong())


@mutant("misuse_is_refused")
def errors_of_no_class_of_ours() -> Any:
    return patched(forward, "InputTypeError", TypeError)


@mutant("wrong_values_are_refused")
def outputs_that_are_nan_pass() -> TorchHarness:
    class Wrong(TorchBackend):
        def values_if_free(self, array):  # type: ignore[no-untyped-def]
            return super().values_if_free(torch.nan_to_num(array) if array.is_floating_point() else array)

    return harness_of(Wrong())
