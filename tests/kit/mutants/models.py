"""Mutants that get what a model holds wrong: parameters, state, masks; and what a call leaves behind."""

from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core.calls import Calls
from gradreg_core.evaluation import _Batch
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


# --- parameters -------------------------------------------------------------------------------------------------------
@mutant("parameters_of_a_model")
def shared_parameters_counted_in_every_place() -> TorchHarness:
    class Wrong(TorchBackend):
        def parameters(self, model):  # type: ignore[no-untyped-def]
            named = model.named_parameters(remove_duplicate=False)
            return [parameter for _, parameter in named if parameter.requires_grad]

    return harness_of(Wrong())


@mutant("parameters_of_a_model", exactly=False)
def frozen_parameters_counted() -> TorchHarness:
    class Wrong(TorchBackend):
        def parameters(self, model):  # type: ignore[no-untyped-def]
            return list(model.parameters())

    return harness_of(Wrong())


@mutant("parameters_of_a_model", exactly=False)
def parameters_of_the_children_alone() -> TorchHarness:
    class Wrong(TorchBackend):
        def parameters(self, model):  # type: ignore[no-untyped-def]
            own = [parameter for parameter in model.parameters(recurse=False) if parameter.requires_grad]
            return own[1:] or own[:0] or [own[0] * 0]

    return harness_of(Wrong())


# --- state and masks --------------------------------------------------------------------------------------------------
@mutant("state_moves_once")
def state_moved_by_each_pass() -> TorchHarness:
    class Wrong(TorchBackend):
        def without_state_changes(self, model):  # type: ignore[no-untyped-def]
            return model

    return harness_of(Wrong())


@mutant("state_moves_once", exactly=False)
def state_of_a_difference_moved_twice() -> TorchHarness:
    class Wrong(TorchBackend):
        def call_twice(self, model, apply, x, moved):  # type: ignore[no-untyped-def]
            done = super().call_twice(model, apply, x, moved)
            for name, buffer in model.named_buffers() if isinstance(model, torch.nn.Module) else ():
                buffer += name == "passes"
            return done

    return harness_of(Wrong())


@mutant("masks_are_those_of_the_loss")
def masks_drawn_anew_for_a_difference() -> TorchHarness:
    class Wrong(TorchBackend):
        def call_twice(self, model, apply, x, moved):  # type: ignore[no-untyped-def]
            outputs, returned = apply(model, x)
            return outputs, returned, apply(self.without_state_changes(model), moved)[0]

    return harness_of(Wrong())


@mutant("masks_are_those_of_the_loss", exactly=False)
def masks_drawn_anew_for_the_penalty() -> TorchHarness:
    """The outputs that come back are of another pass, made of a model that has random layers."""

    class Wrong(Calls):
        def loss(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            total, parts = super().loss(model, x, y, reg, **options)
            if not hasattr(model, "part"):
                return total, parts
            return total, parts._replace(outputs=self.backend.without_state_changes(model)(x))

    return harness_of(calls=Wrong)


# --- traces -----------------------------------------------------------------------------------------------------------
@mutant("calls_leave_no_gradient_behind")
def input_marked_as_differentiable() -> TorchHarness:
    class Wrong(Calls):
        def measure(self, model, x, *args, **options):  # type: ignore[no-untyped-def]
            if isinstance(x, torch.Tensor) and x.is_leaf and x.shape[0] == 5:
                x.requires_grad_()
            return super().measure(model, x, *args, **options)

    return harness_of(calls=Wrong)


@mutant("calls_leave_no_gradient_behind", exactly=False)
def gradients_left_on_the_weights() -> TorchHarness:
    class Wrong(Calls):
        def penalty(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            value = super().penalty(model, x, y, reg, **options)
            own = isinstance(x, torch.Tensor) and x.shape[0] == 5 and not x.requires_grad and value.requires_grad
            if own and torch._C._functorch.peek_interpreter_stack() is None:
                value.backward(retain_graph=True)
            return value

    return harness_of(calls=Wrong)


@mutant("results_without_history")
def results_with_a_history_where_none_is_kept() -> TorchHarness:
    class Wrong(TorchBackend):
        def finish(self, value):  # type: ignore[no-untyped-def]
            return value

    return harness_of(Wrong())


@mutant("results_without_history", exactly=False)
def outputs_with_a_history_where_none_is_kept() -> TorchHarness:
    class Wrong(TorchBackend):
        def finish(self, value):  # type: ignore[no-untyped-def]
            return super().finish(value) if value.ndim == 0 else value

    return harness_of(Wrong())


# --- threads ----------------------------------------------------------------------------------------------------------
@mutant("calls_in_threads")
def the_latest_call_for_all_threads() -> Made:
    plain = _Batch.__init__
    latest: list[Any] = []

    def init(self, passes):  # type: ignore[no-untyped-def]
        plain(self, passes)
        if self._mean.weight is None and passes.call.normalizer is None:
            self._mean = replace(self._mean, normalizer=float(latest[-1]))

    from gradreg_core import evaluation

    run = evaluation._Passes.run

    def remembered(self, plan):  # type: ignore[no-untyped-def]
        latest.append(self.samples.batch)
        run(self, plan)

    @contextmanager
    def made():  # type: ignore[no-untyped-def]
        with patched(_Batch, "__init__", init), patched(evaluation._Passes, "run", remembered) as harness:
            yield harness

    return made()


@mutant("calls_in_threads", exactly=False)
def the_step_of_the_latest_call() -> TorchHarness:
    """The step is kept on the backend between the passes and the draws."""

    class Wrong(Calls):
        def _evaluated(self, call, model, x, y, reg, batch_norm):  # type: ignore[no-untyped-def]
            self.seed = call.step
            inner = model

            def passed(*args: Any, **kwargs: Any) -> Any:
                outputs = inner(*args, **kwargs)
                if self.seed != call.step and isinstance(outputs, torch.Tensor):
                    return outputs * 2
                return outputs

            own = callable(model) and not isinstance(model, torch.nn.Module) and isinstance(call.step, int)
            return super()._evaluated(call, passed if own else model, x, y, reg, batch_norm)

    return harness_of(calls=Wrong)
