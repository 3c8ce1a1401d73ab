"""Mutants whose differentiation is wrong.

Left out: pull_rows without a batched pass (slower, and equal), and a pullback that is made anew at each call (equal).
"""

import torch

from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant

__all__: list[str] = []


@mutant("constants_carry_no_gradient")
def sign_with_a_straight_through_gradient() -> TorchHarness:
    class Wrong(TorchBackend):
        def sign(self, array):  # type: ignore[no-untyped-def]
            return array + (array.sign() - array).detach()

    return harness_of(Wrong())


# Where PyTorch has not warned yet that such a tensor becomes a number, more checks fail.
@mutant("constants_carry_no_gradient", "gradients_with_top_singular", exactly=False)
def stop_gradient_that_does_nothing() -> TorchHarness:
    class Wrong(TorchBackend):
        def stop_gradient(self, array):  # type: ignore[no-untyped-def]
            return array

    return harness_of(Wrong())


@mutant("pullbacks_are_transposed_jacobians")
def pullback_of_the_point_seen_first() -> TorchHarness:
    """Kept by the function, as a compiler's cache would, though the next call is at another point."""

    kept: dict = {}  # type: ignore[type-arg] # not on the backend, to which a model of the harness refers

    class Wrong(TorchBackend):
        def vjp(self, fn, x):  # type: ignore[no-untyped-def]
            outputs, pullback = super().vjp(fn, x)
            return outputs, kept.setdefault(id(fn), (fn, pullback))[1]

    return harness_of(Wrong())


@mutant("projection_exact", "pullbacks_are_transposed_jacobians", exactly=False)
def pullback_that_keeps_its_first_result() -> TorchHarness:
    class Wrong(TorchBackend):
        def vjp(self, fn, x):  # type: ignore[no-untyped-def]
            outputs, pullback = super().vjp(fn, x)
            kept: list[torch.Tensor] = []

            def once(w):  # type: ignore[no-untyped-def]
                if not kept:
                    kept.append(pullback(w))
                return kept[0]

            return outputs, once

    return harness_of(Wrong())


@mutant("pullbacks_are_transposed_jacobians", "many_rows_are_pulled_back")
def rows_in_another_order() -> TorchHarness:
    class Wrong(TorchBackend):
        def pull_rows(self, pullback, rows):  # type: ignore[no-untyped-def]
            return torch.stack([pullback(row) for row in rows.flip(0)])

    return harness_of(Wrong())


@mutant("a_branch_not_taken_is_zero")
def a_branch_not_taken_in_another_dtype() -> TorchHarness:
    class Wrong(TorchBackend):
        def cond(self, predicate, branch):  # type: ignore[no-untyped-def]
            value = branch()
            return value if bool(predicate) else torch.zeros((), dtype=torch.float32)

    return harness_of(Wrong())


@mutant("pullbacks_are_transposed_jacobians", "many_rows_are_pulled_back", "chunk_size", "directions_of_the_call")
def several_rows_without_a_gradient() -> TorchHarness:
    class Wrong(TorchBackend):
        def pull_rows(self, pullback, rows):  # type: ignore[no-untyped-def]
            pulled = super().pull_rows(pullback, rows)
            return pulled if len(rows) == 1 else pulled.detach()

    return harness_of(Wrong())


@mutant("a_branch_not_taken_is_zero")
def a_branch_without_a_gradient() -> TorchHarness:
    class Wrong(TorchBackend):
        def cond(self, predicate, branch):  # type: ignore[no-untyped-def]
            return super().cond(predicate, lambda: branch().detach())

    return harness_of(Wrong())
