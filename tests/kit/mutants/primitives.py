"""Mutants with one wrong primitive: arrays, arithmetic.

Left out, because nothing that a backend is for shows them: an unstable argsort that happens to be stable, a logical
right shift inside the random numbers alone (they mask what comes in), a library's other algorithm for the same sum.
"""

import torch
import torch.nn.functional as F

from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant

__all__: list[str] = []


@mutant("arrays_are_made_and_read")
def host_narrows_to_float32() -> TorchHarness:
    class Wrong(TorchBackend):
        def values_if_free(self, array):  # type: ignore[no-untyped-def]
            return super().values_if_free(array.float() if array.dtype == torch.float64 else array)

    return harness_of(Wrong())


@mutant("arrays_are_made_and_read")
def int32_that_does_not_wrap() -> TorchHarness:
    class Wrong(TorchBackend):
        def int32(self, value, like):  # type: ignore[no-untyped-def]
            held = value.clamp(-(2**31) + 1, 2**31 - 1) if isinstance(value, torch.Tensor) else value
            return super().int32(held, like)

    return harness_of(Wrong())


@mutant("shapes_are_changed")
def moveaxis_that_swaps_two_axes() -> TorchHarness:
    class Wrong(TorchBackend):
        def moveaxis(self, array, source, destination):  # type: ignore[no-untyped-def]
            return array.transpose(source, destination)

    return harness_of(Wrong())


@mutant("results_have_the_right_dtype")
def integers_that_add_to_int64() -> TorchHarness:
    class Wrong(TorchBackend):
        def sum(self, array, axis, keepdims=False):  # type: ignore[no-untyped-def]
            return array.sum(axis, keepdim=keepdims)

    return harness_of(Wrong())


@mutant("results_have_the_right_dtype")
def argsort_in_int64() -> TorchHarness:
    class Wrong(TorchBackend):
        def argsort(self, array):  # type: ignore[no-untyped-def]
            return torch.argsort(array, dim=-1, stable=True)

    return harness_of(Wrong())


@mutant("integers_wrap_around")
def logical_right_shift() -> TorchHarness:
    class Wrong(TorchBackend):
        def bitwise_right_shift(self, array, bits):  # type: ignore[no-untyped-def]
            return ((array.long() & 0xFFFFFFFF) >> bits).int()

    return harness_of(Wrong())


@mutant("arithmetic_equals_numpy")
def keepdims_of_a_single_axis_only() -> TorchHarness:
    class Wrong(TorchBackend):
        def sum(self, array, axis, keepdims=False):  # type: ignore[no-untyped-def]
            return super().sum(array, axis, keepdims and isinstance(axis, int))

    return harness_of(Wrong())


@mutant("arithmetic_equals_numpy", "pullbacks_are_transposed_jacobians", exactly=False)
def matmul_in_float32() -> TorchHarness:
    class Wrong(TorchBackend):
        def matmul(self, left, right):  # type: ignore[no-untyped-def]
            return (left.float() @ right.float()).to(left.dtype)

    return harness_of(Wrong())


@mutant("equals_keep_their_order", "kink_of_the_linf_norm")
def argmax_of_the_last_of_equals() -> TorchHarness:
    class Wrong(TorchBackend):
        def argmax(self, array):  # type: ignore[no-untyped-def]
            return array.shape[-1] - 1 - super().argmax(array.flip(-1))

    return harness_of(Wrong())


@mutant("equals_keep_their_order")
def unstable_argsort() -> TorchHarness:
    class Wrong(TorchBackend):
        def argsort(self, array):  # type: ignore[no-untyped-def]
            if array.shape[-1] >= 64:  # which `arrays_of_many_elements` looks at
                return super().argsort(array)
            return array.shape[-1] - 1 - super().argsort(array.flip(-1))

    return harness_of(Wrong())


@mutant("extremes_neither_overflow_nor_round")
def softplus_with_a_threshold() -> TorchHarness:
    class Wrong(TorchBackend):
        def softplus(self, array):  # type: ignore[no-untyped-def]
            right = super().softplus(array)
            return right + (F.softplus(array) - right).detach()  # its derivatives are right

    return harness_of(Wrong())


@mutant("extremes_neither_overflow_nor_round", "logits_far_apart")
def logarithm_of_the_softmax() -> TorchHarness:
    class Wrong(TorchBackend):
        def log_softmax(self, array):  # type: ignore[no-untyped-def]
            return array.softmax(-1).log()

    return harness_of(Wrong())


@mutant("extremes_neither_overflow_nor_round", "logits_far_apart")
def softmax_without_its_maximum() -> TorchHarness:
    class Wrong(TorchBackend):
        def softmax(self, array):  # type: ignore[no-untyped-def]
            powers = array.exp()
            return powers / powers.sum(-1, keepdim=True)

    return harness_of(Wrong())


@mutant("arguments_are_not_changed")
def eigenvalues_that_overwrite_the_matrix() -> TorchHarness:
    class Wrong(TorchBackend):
        def eigvalsh(self, array):  # type: ignore[no-untyped-def]
            values = super().eigvalsh(array)
            array.detach().copy_(torch.diag_embed(values.detach()))
            return values

    return harness_of(Wrong())
