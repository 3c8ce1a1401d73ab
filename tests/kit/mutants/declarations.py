"""Mutants that are not what they say, and that take what they ought to refuse."""

from typing import Any

import numpy as np
import torch
from gradreg_core import engine
from gradreg_core.portable.networks import LayerNorm
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []


@mutant("description_fits_the_backend")
def a_capability_that_is_not_described() -> TorchHarness:
    class Wrong(TorchBackend):
        capabilities = TorchBackend.capabilities | {"batched_pullback"}

    return harness_of(Wrong())


@mutant("backend_has_every_primitive")
def a_primitive_is_missing() -> TorchHarness:
    class Wrong(TorchBackend):
        parameters = None  # type: ignore[assignment]

    return harness_of(Wrong())


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


@mutant("named_activations")
def a_name_that_is_ignored() -> TorchHarness:
    class Wrong(TorchBackend):
        def named_vjp(self, model, x, names):  # type: ignore[no-untyped-def]
            outputs, pullbacks = super().named_vjp(model, x, [None, *names])
            return outputs, dict.fromkeys(names, pullbacks[None])

    return harness_of(Wrong())


@mutant("named_activations")
def a_name_whose_penalty_has_no_gradient() -> TorchHarness:
    class Wrong(TorchBackend):
        def named_vjp(self, model, x, names):  # type: ignore[no-untyped-def]
            outputs, pullbacks = super().named_vjp(model, x, names)
            at = {name: pull for name, pull in pullbacks.items() if name is not None}
            return outputs, pullbacks | {name: (lambda w, pull=pull: pull(w).detach()) for name, pull in at.items()}

    return harness_of(Wrong())


@mutant("misuse_is_refused")
def errors_of_no_class_of_ours() -> Any:
    return patched(engine, "InputTypeError", TypeError)


@mutant("wrong_values_are_refused")
def outputs_that_are_nan_pass() -> TorchHarness:
    class Wrong(TorchBackend):
        def values_if_free(self, array):  # type: ignore[no-untyped-def]
            return super().values_if_free(torch.nan_to_num(array) if array.is_floating_point() else array)

    return harness_of(Wrong())
