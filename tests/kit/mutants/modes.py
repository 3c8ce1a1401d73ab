"""Mutants that are wrong in one way to run, and right in the others."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradreg_core import engine
from gradreg_core.random import Draws, make_draws
from gradreg_core.spec import Term
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched


def _in_transform() -> bool:
    return torch._C._functorch.peek_interpreter_stack() is not None


def _drawn(change: Callable[..., Draws]) -> Any:
    def change_all(ops, seed, step, ids, like):  # type: ignore[no-untyped-def]
        return change(ops, seed, step, ops.asarray(ids, like))

    return patched(engine, "make_draws", change_all)


@mutant("every_mode_equals_the_first")
def detached_inside_transforms() -> TorchHarness:
    """The pullback of the functional path is a constant to the outer derivative."""

    class Wrong(TorchBackend):
        def vjp_with_aux(self, fn: Any, x: Tensor) -> tuple[Tensor, Any, Any]:
            outputs, aux, pullback = super().vjp_with_aux(fn, x)
            own = _in_transform() and x.ndim > 1 and len(x) == 2
            return outputs, aux, (lambda w: pullback(w).detach()) if own else pullback

    return harness_of(Wrong())


@mutant("draws_at_a_traced_step")
def traced_step_is_lost_in_the_draws() -> Any:
    """A step that cannot be read draws as step 0."""

    return _drawn(lambda ops, seed, step, ids: make_draws(ops, seed, step if isinstance(step, int) else 0, ids))


@mutant("draws_of_a_traced_seed")
def traced_seed_is_lost() -> Any:
    """A seed that cannot be read draws as seed 0."""

    return _drawn(lambda ops, seed, step, ids: make_draws(ops, seed if isinstance(seed, int) else 0, step, ids))


@mutant("every_mode_equals_the_first")
def product_along_inputs_without_a_gradient_in_a_transform() -> TorchHarness:
    class Wrong(TorchBackend):
        def model_jvp(self, model: Any, apply: Any, x: Tensor, v: Tensor) -> tuple[Tensor, Any, Tensor]:
            outputs, returned, tangent = super().model_jvp(model, apply, x, v)
            return outputs, returned, tangent.detach() if _in_transform() else tangent

    return harness_of(Wrong())


@mutant("every_at_a_traced_step")
def traced_condition_always_holds() -> TorchHarness:
    """A condition that cannot be read is taken to hold."""

    class Wrong(TorchBackend):
        def cond(self, predicate: Tensor, branch: Callable[[], Tensor]) -> Tensor:
            return branch() if _in_transform() else super().cond(predicate, branch)

    return harness_of(Wrong())


@mutant("schedules_at_a_traced_step")
def traced_step_is_lost_in_the_schedule() -> Any:
    """A schedule is asked for its weight at step 0 where the step cannot be read."""
    original = Term.weight_at

    def weight_at(self: Term, step: Any) -> Any:
        return original(self, 0 if isinstance(step, Tensor) else step)

    return patched(Term, "weight_at", weight_at)


@mutant("arguments_that_are_read_only")
def written_while_converted() -> TorchHarness:
    """Not-a-numbers in NumPy arguments of float64 are cleared in the caller's own memory."""

    class Wrong(TorchBackend):
        def asarray(self, value: Any, like: Tensor) -> Tensor:
            if isinstance(value, np.ndarray) and value.dtype == np.float64:
                np.nan_to_num(value, copy=False)
            return super().asarray(value, like)

    return harness_of(Wrong())


@mutant("inputs_in_any_order_of_memory")
def strides_ignored() -> TorchHarness:
    """The input's memory is read as if its axes lay in order."""

    class Wrong(TorchBackend):
        def prepared(self, array: Tensor) -> Tensor:
            if array.shape[0] != 2:
                return super().prepared(array)
            return super().prepared(array.as_strided(array.shape, torch.empty(array.shape, device="meta").stride()))

    return harness_of(Wrong())


@mutant("values_where_nothing_is_differentiated")
def gradients_stay_off() -> TorchHarness:
    """Gradient mode is not switched on for the time of `measure`."""

    class Wrong(TorchBackend):
        @contextmanager
        def enter(self, call: str, model: Any, arrays: Sequence[Tensor], batch_norm: str) -> Iterator[None]:
            enabled = torch.is_grad_enabled() or call != "measure"
            with super().enter(call, model, arrays, batch_norm), torch.set_grad_enabled(enabled):
                yield

    return harness_of(Wrong())
