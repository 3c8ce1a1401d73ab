"""Mutants whose `measure` or `check` is wrong."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import calls, measuring
from gradreg_core.calls import Calls
from gradreg_core.preflight import CheckReport, run
from gradreg_core.preflight.differences import Differences
from gradreg_core.preflight.report import Finding
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


# --- measure ----------------------------------------------------------------------------------------------------------
def _without(*names: str, instead: Any = None) -> TorchHarness:
    """A `measure` that ignores these options."""

    class Wrong(Calls):
        def measure(self, model, x, y=None, **options):  # type: ignore[no-untyped-def]
            return super().measure(model, x, y, **options | {name: instead for name in names if name in options})

    return harness_of(calls=Wrong)


@mutant("measure_with_every_option")
def measure_that_ignores_the_weights_of_positions() -> TorchHarness:
    return _without("position_weight")


@mutant("measure_with_every_option", exactly=False)
def measure_that_ignores_the_seed_of_the_call() -> TorchHarness:
    return _without("seed")


@mutant("measure_with_every_option", exactly=False)
def measure_that_ignores_the_step() -> TorchHarness:
    return _without("step")


@mutant("measure_with_every_option", exactly=False)
def measure_that_ignores_the_numbers_of_samples() -> TorchHarness:
    return _without("sample_ids")


@mutant("measure_with_every_option", exactly=False)
def measure_by_the_cross_entropy_whatever_the_loss() -> TorchHarness:
    class Wrong(Calls):
        def measure(self, model, x, y=None, **options):  # type: ignore[no-untyped-def]
            honest = super().measure(model, x, y, **options)
            return honest if "loss_fn" not in options else honest._replace(loss_gradient=honest.frobenius)

    return harness_of(calls=Wrong)


@mutant("measure_with_every_option", exactly=False)
def measure_with_the_classes_last() -> TorchHarness:
    return _without("class_axis", instead=-1)


@mutant("measure_with_every_option", exactly=False)
def one_power_iteration() -> Made:
    def norms(forward, projections):  # type: ignore[no-untyped-def]
        frobenius, spectral = plain(forward, projections)
        few = projections is not None and projections < forward.layout.canonical[2]
        return (frobenius, spectral * 0.99) if few else (frobenius, spectral)

    plain = calls.norms
    return patched(calls, "norms", norms)


@mutant("measures_are_constants")
def norms_that_are_differentiated() -> TorchHarness:
    class Wrong(Calls):
        def measure(self, model, x, y=None, **options):  # type: ignore[no-untyped-def]
            honest = super().measure(model, x, y, **options)
            own = y is not None and "class_axis" not in options and x.requires_grad
            return honest._replace(spectral=honest.spectral + 0 * x.sum() + (x - x.detach()).sum()) if own else honest

    return harness_of(calls=Wrong)


# --- check ------------------------------------------------------------------------------------------------------------
def _reported(change: Callable[[CheckReport], CheckReport]) -> TorchHarness:
    class Wrong(Calls):
        def check(self, *args, **options):  # type: ignore[no-untyped-def]
            return change(super().check(*args, **options))

    return harness_of(calls=Wrong)


@mutant("check_notices_what_is_wrong")
def check_that_is_always_content() -> TorchHarness:
    return _reported(lambda report: replace(report, findings=()))


@mutant("check_notices_what_is_wrong", exactly=False)
def check_that_warns_only() -> TorchHarness:
    def warned(finding: Finding) -> Finding:
        return replace(finding, level="warning")

    return _reported(lambda report: replace(report, findings=tuple(map(warned, report.findings))))


@mutant("check_notices_what_is_wrong", exactly=False)
def check_that_never_compares() -> Made:
    def compared(subject, scale, along_weights):  # type: ignore[no-untyped-def]
        return 1e-6, []

    return patched(run, "against_differences", compared)


@mutant("check_notices_what_is_wrong", exactly=False)
def check_that_gives_no_warnings() -> TorchHarness:
    def change(report: CheckReport) -> CheckReport:
        return replace(report, findings=tuple(one for one in report.findings if one.level == "error"))

    return _reported(change)


@mutant("check_notices_what_is_wrong", exactly=False)
def check_that_takes_any_label() -> TorchHarness:
    class Wrong(Calls):
        def check(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            return super().check(model, x, None if y is None else y.clamp(max=3), reg, **options)

    return harness_of(calls=Wrong)


# --- what they leave behind -------------------------------------------------------------------------------------------
@mutant("measure_of_no_slope")
def a_root_with_its_infinite_slope() -> Made:
    return patched(measuring, "safe_sqrt", lambda ops, array: array / array.sqrt())


@mutant("check_leaves_the_model")
def check_that_moves_the_weights() -> TorchHarness:
    class Wrong(Calls):
        def check(self, model, *arguments, **options):  # type: ignore[no-untyped-def]
            report = super().check(model, *arguments, **options)
            with torch.no_grad():
                for parameter in model.parameters() if isinstance(model, torch.nn.Module) else ():
                    parameter.add_(1e-3)
            return report

    return harness_of(calls=Wrong)


@mutant("check_leaves_the_model")
def check_that_draws_from_the_framework() -> TorchHarness:
    class Wrong(Calls):
        def check(self, *arguments, **options):  # type: ignore[no-untyped-def]
            torch.rand(3)
            return super().check(*arguments, **options)

    return harness_of(calls=Wrong)


@mutant("draws_of_the_framework")
def calls_that_restore_the_generator() -> Made:
    plain = Calls._evaluated

    def evaluated(self, *arguments):  # type: ignore[no-untyped-def]
        state = torch.get_rng_state()
        try:
            return plain(self, *arguments)
        finally:
            torch.set_rng_state(state)

    return patched(Calls, "_evaluated", evaluated)


@mutant("draws_of_the_framework")
def calls_that_draw_from_the_framework() -> Made:
    plain = Calls._evaluated

    def evaluated(self, *arguments):  # type: ignore[no-untyped-def]
        torch.rand(1)
        return plain(self, *arguments)

    return patched(Calls, "_evaluated", evaluated)


@mutant("state_moves_once")
def measure_in_evaluation_mode() -> TorchHarness:
    class Wrong(Calls):
        def measure(self, model, *arguments, **options):  # type: ignore[no-untyped-def]
            if not isinstance(model, torch.nn.Module):
                return super().measure(model, *arguments, **options)
            model.eval()
            try:
                return super().measure(model, *arguments, **options)
            finally:
                model.train()

    return harness_of(calls=Wrong)


@mutant("masks_are_those_of_the_loss")
def a_gradient_of_other_masks_to_follow() -> TorchHarness:
    class Wrong(TorchBackend):
        def call_along(self, model, apply, x, move):  # type: ignore[no-untyped-def]
            other = self.without_state_changes(model)
            moved = move(*self.vjp_with_aux(lambda point: apply(other, point), x.detach()))
            return self.call_twice(model, apply, x, moved)

    return harness_of(Wrong())


def _check_without(*names: str) -> TorchHarness:
    """A check that ignores these options of the call."""

    class Wrong(Calls):
        def check(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            kept = {name: value for name, value in options.items() if name not in names}
            return super().check(model, x, y, reg, **kept)

    return harness_of(calls=Wrong)


_REPORTS = "check_reports_on_a_model"


@mutant(_REPORTS)
def check_that_ignores_the_weights_of_samples() -> TorchHarness:
    return _check_without("sample_weight")


@mutant(_REPORTS)
def check_that_ignores_the_loss_of_the_caller() -> TorchHarness:
    return _check_without("loss_fn")


@mutant(_REPORTS)
def check_that_ignores_the_step() -> TorchHarness:
    return _check_without("step")


@mutant("check_notices_what_is_wrong", exactly=False)
def check_of_the_input_alone() -> Made:
    plain = Differences.__init__

    def made(self, *arguments, **options):  # type: ignore[no-untyped-def]
        plain(self, *arguments, **options)
        self.of_weights = ()

    return patched(Differences, "__init__", made)
