"""Mutants that are wrong for large arrays, at extremes, and out of the range of half precision alone."""

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from gradreg_core import engine, labels, projections
from gradreg_core.evaluation import _Mean
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


# --- primitives of many elements --------------------------------------------------------------------------------------
@mutant("arrays_of_many_elements")
def running_sum_in_blocks_of_128() -> TorchHarness:
    class Wrong(TorchBackend):
        def cumulative_sum(self, array):  # type: ignore[no-untyped-def]
            return torch.cat([block.cumsum(-1) for block in array.split(128, -1)], -1)

    return harness_of(Wrong())


@mutant("arrays_of_many_elements", exactly=False)
def sort_that_is_unstable_above_16_elements() -> TorchHarness:
    class Wrong(TorchBackend):
        def argsort(self, array):  # type: ignore[no-untyped-def]
            honest = super().argsort(array)
            return array.shape[-1] - 1 - super().argsort(array.flip(-1)) if array.shape[-1] > 16 else honest

    return harness_of(Wrong())


@mutant("arrays_of_many_elements", exactly=False)
def softmax_of_the_first_256_alone() -> TorchHarness:
    class Wrong(TorchBackend):
        def softmax(self, array):  # type: ignore[no-untyped-def]
            return (array - array[..., :256].logsumexp(-1, keepdim=True)).exp()

    return harness_of(Wrong())


@mutant("arrays_of_many_elements", exactly=False)
def matrix_product_in_float32_above_four() -> TorchHarness:
    class Wrong(TorchBackend):
        def matmul(self, left, right):  # type: ignore[no-untyped-def]
            if left.shape[-1] <= 4:
                return super().matmul(left, right)
            return super().matmul(left.float(), right.float()).to(left.dtype)

    return harness_of(Wrong())


@mutant("arrays_of_many_elements", exactly=False)
def class_numbers_of_eight_bits_in_the_cross_entropy() -> TorchHarness:
    class Wrong(TorchBackend):
        def cross_entropy(self, logits, labels):  # type: ignore[no-untyped-def]
            return super().cross_entropy(logits, labels & 0xFF)

    return harness_of(Wrong())


@mutant("arrays_of_many_elements", exactly=False)
def sums_of_256_elements_at_most() -> TorchHarness:
    class Wrong(TorchBackend):
        def sum(self, array, axis, keepdims=False):  # type: ignore[no-untyped-def]
            return super().sum(array[..., :256], axis, keepdims)

    return harness_of(Wrong())


@mutant("arrays_of_many_elements", exactly=False)
def eigenvalues_of_the_first_four_rows() -> TorchHarness:
    class Wrong(TorchBackend):
        def eigvalsh(self, array):  # type: ignore[no-untyped-def]
            values = super().eigvalsh(array)
            return values if array.shape[-1] <= 4 else values.clone().fill_(float(values.mean()))

    return harness_of(Wrong())


@mutant("equal_indices_add_their_gradients")
def gradient_of_one_of_equal_indices() -> TorchHarness:
    class Wrong(TorchBackend):
        def take(self, array, indices):  # type: ignore[no-untyped-def]
            taken = super().take(array, indices)
            flat = indices.reshape(-1)
            earlier = (flat[:, None] == flat[None]).tril(-1).any(1).reshape(indices.shape)
            wide = earlier.reshape(*earlier.shape, *[1] * (taken.ndim - earlier.ndim))
            return torch.where(wide, taken.detach(), taken) if taken.is_floating_point() else taken

    return harness_of(Wrong())


@mutant("many_rows_are_pulled_back")
def rows_after_the_32nd_without_a_gradient() -> TorchHarness:
    class Wrong(TorchBackend):
        def pull_rows(self, pullback, rows):  # type: ignore[no-untyped-def]
            return torch.stack([pullback(r) if i < 33 else pullback(r).detach() for i, r in enumerate(rows)])

    return harness_of(Wrong())


@mutant("many_rows_are_pulled_back", exactly=False)
def sixteen_rows_at_most() -> TorchHarness:
    class Wrong(TorchBackend):
        def pull_rows(self, pullback, rows):  # type: ignore[no-untyped-def]
            return torch.stack([pullback(rows[index % 16]) for index in range(len(rows))])

    return harness_of(Wrong())


# --- whole calls of many samples, outputs and rows --------------------------------------------------------------------
@mutant("a_large_batch_is_the_sum_of_its_parts", exactly=False)
def draws_of_512_samples_at_most() -> Made:
    def draws_of(term, call, batch, ids, like):  # type: ignore[no-untyped-def]
        own = torch.arange(batch, dtype=torch.int32) if ids is None else ids
        return plain(term, call, batch, own[torch.arange(len(own)) % 512], like)

    plain = engine.draws_of
    return patched(engine, "draws_of", draws_of)


@mutant("calls_with_all_options", exactly=False)
def mean_of_512_samples_at_most() -> Made:
    plain = _Mean.__call__

    def mean(self, values, part=None):  # type: ignore[no-untyped-def]
        counts = (torch.arange(len(values)) < 512).to(values.dtype)
        return plain(self, values * counts, part)

    return patched(_Mean, "__call__", mean)


@mutant("labels_of_every_kind", exactly=False)
def class_numbers_of_a_byte() -> Made:
    def prepare(ops, call, y, *more, **options):  # type: ignore[no-untyped-def]
        narrow = isinstance(y, torch.Tensor) and not y.is_floating_point() and options.get("ignore_index") is None
        return plain(ops, call, y.to(torch.uint8) if narrow else y, *more, **options)

    from gradreg_core import forward

    plain = labels.prepare_target
    return patched(forward, "prepare_target", prepare)


@mutant("calls_with_all_options", exactly=False)
def sixteen_directions_at_most() -> Made:
    plain = projections.gaussian.directions

    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        drawn = plain(self, context, rows)
        counted = torch.tensor([float(row < 16) for row in rows], dtype=drawn.dtype)
        return drawn * counted.reshape(-1, *[1] * (drawn.ndim - 1))

    return patched(projections.gaussian, "directions", directions)


# --- extremes ---------------------------------------------------------------------------------------------------------
@mutant("derivatives_at_extremes")
def sigmoid_by_its_formula() -> TorchHarness:
    class Wrong(TorchBackend):
        def sigmoid(self, array):  # type: ignore[no-untyped-def]
            return 1 / (1 + torch.exp(-array))

    return harness_of(Wrong())


@mutant("derivatives_at_extremes", exactly=False)
def softplus_by_a_choice() -> TorchHarness:
    """The branch that is not taken overflows, and its gradient is infinite times 0."""

    class Wrong(TorchBackend):
        def softplus(self, array):  # type: ignore[no-untyped-def]
            return torch.where(array > 700, array, torch.where(array < -700, 0.0, F.softplus(array, threshold=700))) + (
                torch.where(array > 1e3, 0.0, array.exp()) * 0
            )

    return harness_of(Wrong())


@mutant("derivatives_at_extremes", exactly=False)
def sigmoid_detached_far_out() -> TorchHarness:
    class Wrong(TorchBackend):
        def sigmoid(self, array):  # type: ignore[no-untyped-def]
            s = super().sigmoid(array)
            return torch.where(array.abs() > 20, s.detach(), s)

    return harness_of(Wrong())


# --- half precision ---------------------------------------------------------------------------------------------------
_HALVES = (torch.float16, torch.bfloat16)


@mutant("ranges_of_half_precision")
def sample_weights_added_in_half_precision() -> Made:
    def of(cls, call, batch, like, positions):  # type: ignore[no-untyped-def]
        mean = plain(call, batch, like, positions)
        given = call.sample_weight
        half = isinstance(given, torch.Tensor) and given.dtype in _HALVES and call.normalizer is None
        return replace(mean, normalizer=given.cumsum(0)[-1].to(mean.weight.dtype)) if half else mean

    plain = _Mean.of
    return patched(_Mean, "of", classmethod(of))


@mutant("ranges_of_half_precision", exactly=False)
def class_numbers_in_half_precision() -> Made:
    def one_hot(ops, indices, size, dtype):  # type: ignore[no-untyped-def]
        held = indices.to(torch.bfloat16).int() if size > 256 else indices
        return plain(ops, held, size, dtype)

    plain = labels.one_hot
    return patched(labels, "one_hot", one_hot)


@mutant("ranges_of_half_precision", exactly=False)
def norms_in_float16() -> Made:
    def widened(ops: Any, array: Any) -> Any:
        wide = plain(ops, array)
        return (
            wide
            if array.dtype != torch.float16
            else (wide * wide.abs()).half().to(wide.dtype).abs().sqrt() * wide.sign()
        )

    plain = engine.widened
    return patched(engine, "widened", widened)
