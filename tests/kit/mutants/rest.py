"""Mutants that are right in ordinary calls, and wrong for places, thresholds, many inputs or after errors."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import calls, forward, input_side, taps
from gradreg_core.calls import Calls
from gradreg_core.evaluation import _Batch, _Mean
from gradreg_core.forward import Forward
from gradreg_core.inputs import Arguments
from gradreg_core.norms import hinge, target
from gradreg_core.outputs import _LogProbabilities
from gradreg_core.results import Parts
from gradreg_core.terms import Term
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched, per_sample

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


# --- places -----------------------------------------------------------------------------------------------------------
_PLACES = "options_of_places"


def _of_place(**changed: Any) -> Made:
    """A term between two places with other options than its own."""
    return per_sample(lambda plain, term, forward: plain(replace(term, **changed) if term.of else term, forward))


@mutant(_PLACES)
def squares_between_two_places() -> Made:
    return _of_place(squared=True)


@mutant(_PLACES, exactly=False)
def the_l2_norm_between_two_places() -> Made:
    return _of_place(norm="l2")


@mutant(_PLACES)
def a_draw_of_each_sample_between_two_places() -> Made:
    return _of_place(draw="per_sample")


@mutant(_PLACES)
def every_charged_once_between_two_places() -> Made:
    plain = _Batch.charged

    def charged(self, term, plan_knows):  # type: ignore[no-untyped-def]
        between = getattr(term.lower(), "of", None)
        return plain(self, term, plan_knows) / (term.every if between else 1)

    return patched(_Batch, "charged", charged)


# --- gradients --------------------------------------------------------------------------------------------------------
def _option(name: str) -> Made:
    """An option of the call as a constant."""
    plain = calls.checked

    def altered(call: Any, *others: Any) -> Any:
        came, arguments = plain(call, *others)
        value = getattr(came, name)
        return (replace(came, **{name: value.detach()}) if isinstance(value, torch.Tensor) else came), arguments

    return patched(calls, "checked", altered)


_COMPUTED = "gradients_of_what_the_caller_computes"


@mutant(_COMPUTED)
def weights_of_positions_as_constants() -> Made:
    return _option("position_weight")


@mutant(_COMPUTED)
def the_normalizer_as_a_constant() -> Made:
    return _option("normalizer")


@mutant(_COMPUTED)
def directions_in_the_input_as_constants() -> Made:
    plain = input_side._directions

    def directions(*arguments: Any, **options: Any) -> Any:
        yield from (row if row is None else row.detach() for row in plain(*arguments, **options))

    return patched(input_side, "_directions", directions)


@mutant(_COMPUTED)
def outputs_that_come_back_as_constants() -> Made:
    def parts(loss: Any, penalty: Any, outputs: Any) -> Parts:
        return Parts(loss, penalty, outputs.detach() if isinstance(outputs, torch.Tensor) else outputs)

    return patched(calls, "Parts", parts)


@mutant(_COMPUTED)
def weights_of_a_part_as_constants() -> Made:
    plain = _Mean.__call__

    def mean(self, values, part=None):  # type: ignore[no-untyped-def]
        weighed = part is not None and self.weight is not None
        return plain(replace(self, weight=self.weight.detach()) if weighed else self, values, part)

    return patched(_Mean, "__call__", mean)


@mutant("outputs_come_back_as_returned")
def outputs_in_a_structure_that_come_back_as_constants() -> Made:
    plain = calls._finished

    def finished(ops: Any, returned: Any) -> Any:
        if isinstance(returned, torch.Tensor):
            return plain(ops, returned)
        leaves, rebuild = ops.flatten(returned)
        return rebuild([leaf.detach() for _, leaf in leaves])

    return patched(calls, "_finished", finished)


@mutant("choices_that_are_rare")
def a_single_logits_probability_as_a_constant_to_the_tangent() -> Made:
    plain = _LogProbabilities.push

    def push(self, forward, t):  # type: ignore[no-untyped-def]
        single = forward.layout.canonical[2] == 1
        return t * (1 - self._probabilities(forward).detach()) if single else plain(self, forward, t)

    return patched(_LogProbabilities, "push", push)


@mutant("choices_that_are_rare")
def outputs_of_one_axis_that_are_certain() -> Made:
    plain = Forward.probabilities

    def probabilities(self, asker):  # type: ignore[no-untyped-def]
        return torch.ones_like(self.logits) if len(self.layout.shape) == 1 else plain(self, asker)

    return patched(Forward, "probabilities", probabilities)


class _ConstantSlope(torch.autograd.Function):
    """The identity, through which no gradient of the incoming slope flows."""

    @staticmethod
    def forward(x: Any) -> Any:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        return slope.detach()


@mutant("the_gradient_is_differentiated_again")
def a_penalty_that_is_linear_to_its_second_derivative() -> TorchHarness:
    class Wrong(Calls):
        def penalty(self, *arguments, **options):  # type: ignore[no-untyped-def]
            return _ConstantSlope.apply(super().penalty(*arguments, **options))

    return harness_of(calls=Wrong)


@mutant("weight_decay")
def kernels_of_four_axes_that_do_not_decay() -> Made:
    plain = _Batch.parameters
    return patched(_Batch, "parameters", lambda self, owner: [one for one in plain(self, owner) if one.dim() != 4])


@mutant("thresholds_of_phi")
def norms_just_below_the_threshold_that_cost() -> Made:
    def apply(self, ops, n):  # type: ignore[no-untyped-def]
        excess = torch.where(n < self.t - 1e-3, 0.0, n - self.t)
        return excess * excess

    return patched(hinge, "apply", apply)


@mutant("thresholds_of_phi")
def a_target_of_0_without_the_square() -> Made:
    plain = target.apply
    return patched(target, "apply", lambda self, ops, n: n if self.t == 0 else plain(self, ops, n))


# --- inputs, positions, terms -----------------------------------------------------------------------------------------
@mutant("inputs_of_many_arrays")
def four_arrays_of_the_input_differentiated() -> Made:
    plain = Arguments.of

    def of(ops: Any, call: str, x: Any) -> Arguments:
        made = plain(ops, call, x)
        return replace(made, wrt=made.wrt[:4])

    return patched(Arguments, "of", of)


@mutant("inputs_of_many_arrays")
def masks_of_the_input_not_cut() -> Made:
    plain = Arguments.take

    def take(self, indices):  # type: ignore[no-untyped-def]
        taken = plain(self, indices)
        pairs = zip(self.leaves, taken.leaves, strict=True)
        masks = [whole[: len(cut)] if getattr(whole, "dtype", None) == torch.bool else cut for whole, cut in pairs]
        return replace(taken, leaves=tuple(masks))

    return patched(Arguments, "take", take)


@mutant("positions_of_weight_zero")
def losses_of_positions_that_do_not_count() -> Made:
    def mean(self, values):  # type: ignore[no-untyped-def]
        share = self.position_share
        return values.mean(1) if share is None else (share * values).sum(1)

    return patched(Forward, "mean_over_positions", mean)


@mutant("weight")
def terms_of_weight_0_that_are_computed() -> Made:
    def is_due(self, step):  # type: ignore[no-untyped-def]
        return self.every == 1 or not isinstance(step, int) or step % self.every == 0

    return patched(Term, "is_due", is_due)


def _labels(change: Callable[[Any, int], Any]) -> Made:
    """`change(y, index)` in place of the label to ignore."""
    plain = forward.ignored

    def ignored(ops, call, y, layout, like, index):  # type: ignore[no-untyped-def]
        return plain(ops, call, y, layout, like, change(y, index))

    return patched(forward, "ignored", ignored)


@mutant("arguments_in_every_form")
def a_label_to_ignore_in_the_type_of_the_labels() -> Made:
    return _labels(lambda y, index: index % 256 if y.dtype == torch.uint8 else index)


# --- errors, threads --------------------------------------------------------------------------------------------------
@mutant("misuse_is_refused")
def coupled_samples_with_the_policy_error() -> Made:
    return patched(calls, "refuse_coupling", lambda *arguments: None)


@mutant("calls_after_an_error")
@contextmanager
def places_that_stay_after_an_error() -> Iterator[TorchHarness]:
    plain = taps.Places.__exit__

    def leave(self, kind=None, *rest):  # type: ignore[no-untyped-def]
        if kind is None:
            plain(self, kind, *rest)

    # The places that stay end with the mutant.
    with patched(taps, "_here", threading.local()), patched(taps.Places, "__exit__", leave) as harness:
        yield harness


@mutant("calls_after_an_error")
def gradients_kept_after_an_error() -> Made:
    plain = Calls._evaluated

    def evaluated(self, *arguments):  # type: ignore[no-untyped-def]
        try:
            return plain(self, *arguments)
        except Exception:
            torch.set_grad_enabled(True)
            raise

    return patched(Calls, "_evaluated", evaluated)


@mutant("calls_in_threads")
def places_that_threads_share() -> Made:
    return patched(taps, "_here", type("Here", (), {})())
