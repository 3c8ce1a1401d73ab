"""Mutants that get nested inputs, selected outputs, places or weights of positions wrong.

Most are wrong outside of transforms only: the check of all forms in every mode would see each of them too.

Left out, because they are equal: the arrays of the input in another order where the norm is of all components and no
direction lies in their space.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import forward, inputs, passes, projections, selection
from gradreg_core.calls import Calls
from gradreg_core.evaluation import _Mean
from gradreg_core.forward import Forward
from gradreg_core.inputs import Arguments
from gradreg_core.taps import Places, _Wanted
from gradreg_torch import backend as torch_backend
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness
from mutants.mutant import harness_of, mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


def _plainly(target: Any, name: str, wrong: Callable[..., Any]) -> Made:
    """`wrong(plain, ...)` in place of `target.name`, outside of transforms."""
    plain = getattr(target, name)

    def either(*args: Any, **options: Any) -> Any:
        inside = torch._C._functorch.peek_interpreter_stack() is not None
        return plain(*args, **options) if inside else wrong(plain, *args, **options)

    return patched(target, name, either)


# --- inputs -----------------------------------------------------------------------------------------------------------
@mutant("inputs_with_respect_to")
def wrt_ignored() -> Made:
    return _plainly(inputs, "_named", lambda plain, ops, call, names, arrays, floating: list(floating))


def _first_of(change: Callable[[Any, int], bool]) -> Made:
    """The first samples of each array for which `change(arguments, index)` holds, in place of those drawn."""

    def take(plain, arguments, indices):  # type: ignore[no-untyped-def]
        cut = plain(arguments, indices)
        leaves = list(cut.leaves)
        for index, leaf in enumerate(arguments.leaves):
            if isinstance(leaf, torch.Tensor) and change(arguments, index):
                leaves[index] = leaf[: len(indices)]
        return replace(cut, leaves=tuple(leaves))

    return _plainly(Arguments, "take", take)


@mutant("nested_inputs")
def integers_that_are_not_cut_with_the_samples() -> Made:
    return _first_of(lambda arguments, index: not arguments.leaves[index].is_floating_point())


@mutant("inputs_with_respect_to")
def arrays_that_are_not_differentiated_are_not_cut() -> Made:
    return _first_of(lambda arguments, i: arguments.leaves[i].is_floating_point() and i not in arguments.wrt)


@mutant("nested_inputs")
def arrays_of_the_input_in_another_order() -> Made:
    def of(plain, cls, ops, call, x):  # type: ignore[no-untyped-def]
        arguments = plain.__func__(cls, ops, call, x)
        return replace(arguments, wrt=arguments.wrt[::-1]) if len(arguments.wrt) > 2 else arguments

    plain = Arguments.of
    return patched(Arguments, "of", classmethod(lambda cls, ops, call, x: of(plain, cls, ops, call, x)))


@mutant("models_that_hold_samples")
def part_of_the_batch_cut_though_the_model_holds_it_all() -> TorchHarness:
    class Wrong(TorchBackend):
        def holds_samples(self, model, batch):  # type: ignore[no-untyped-def]
            return False

    return harness_of(Wrong())


# --- outputs ----------------------------------------------------------------------------------------------------------
@mutant("selected_outputs")
def penalty_of_the_first_array_that_is_returned() -> TorchHarness:
    class Wrong(TorchBackend):
        def model_vjp(self, model, apply, x, pairs):  # type: ignore[no-untyped-def]
            passed = super().model_vjp(model, apply, x, pairs)
            leaves, _ = self.flatten(passed.returned)
            alike = [index for index, (_, leaf) in enumerate(leaves) if leaf.shape == passed.outputs.shape]
            if len(alike) < 2 or not pairs or torch._C._functorch.peek_interpreter_stack() is not None:
                return passed

            def first(model, x):  # type: ignore[no-untyped-def]
                returned = apply(model, x)[1]
                return self.flatten(returned)[0][alike[0]][1], returned

            return replace(passed, pullbacks=super().model_vjp(model, first, x, pairs).pullbacks)

    return harness_of(Wrong())


@mutant("several_outputs")
def outputs_of_a_list_in_another_order() -> Made:
    return _plainly(selection, "pack", lambda plain, ops, arrays: plain(ops, arrays[::-1]))


@mutant("outputs_come_back_as_returned")
def selected_outputs_alone_come_back() -> TorchHarness:
    class Wrong(Calls):
        def loss(self, model, x, y, reg, **options):  # type: ignore[no-untyped-def]
            total, parts = super().loss(model, x, y, reg, **options)
            leaves, _ = self.backend.flatten(parts.outputs)
            return total, parts if len(leaves) == 1 else parts._replace(outputs=leaves[-1][1])

    return harness_of(calls=Wrong)


# --- places -----------------------------------------------------------------------------------------------------------
class _OtherPairs(TorchBackend):
    """Pullbacks between other places than are asked for."""

    def other(self, pair: Any) -> Any:
        raise NotImplementedError

    def model_vjp(self, model, apply, x, pairs):  # type: ignore[no-untyped-def]
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return super().model_vjp(model, apply, x, pairs)
        other = {pair: self.other(pair) for pair in pairs}
        passed = super().model_vjp(model, apply, x, tuple(dict.fromkeys([*pairs, *other.values()])))
        return replace(passed, pullbacks={pair: passed.pullbacks[one] for pair, one in other.items()})


@mutant("places_that_taps_mark")
def tap_moved_behind_the_next_layer() -> TorchHarness:
    class Wrong(_OtherPairs):
        def other(self, pair: Any) -> Any:
            of, at = pair
            moved = at is not None and at.startswith("layer ") and of != "layer 2"
            return (of, f"layer {int(at[6:]) + 1}") if moved else pair

    return harness_of(Wrong())


@mutant("places_that_taps_mark", "places_passed_several_times", exactly=False)
def of_and_at_swapped() -> TorchHarness:
    class Wrong(_OtherPairs):
        def other(self, pair: Any) -> Any:
            return pair if None in pair or pair[0] < pair[1] else pair[::-1]

    return harness_of(Wrong())


@mutant("places_passed_several_times")
def one_time_earlier() -> Made:
    def wanted(plain, key):  # type: ignore[no-untyped-def]
        honest = plain(key)
        return replace(honest, call=honest.call - 1) if honest.call else honest

    return _plainly(_Wanted, "of", wanted)


@mutant("misnamed_places_are_refused")
def places_that_are_not_passed_are_not_missed() -> Made:
    return patched(Places, "require_all", lambda self, also=(): None)


@mutant("misnamed_places_are_refused")
def order_of_places_not_looked_at() -> Made:
    return patched(torch_backend, "require_order", lambda places, pairs: None)


@mutant("forms_in_every_mode")
def perturbation_of_a_place_added_twice() -> Made:
    class Twice(Places):
        def __init__(self, keys, mark):  # type: ignore[no-untyped-def]
            super().__init__(keys, lambda key, value: mark(key, mark(key, value)))

    return patched(passes, "Places", Twice)


# --- positions --------------------------------------------------------------------------------------------------------
@mutant("position_weights")
def unit_length_before_positions_are_left_out() -> Made:
    def directions(plain, self, context, rows):  # type: ignore[no-untyped-def]
        if context.mask is None:
            return plain(self, context, rows)
        return self._scaled(context, plain(projections.sphere(self.k), replace(context, mask=None), rows) * self.k**0.5)

    return _plainly(projections.sphere, "directions", directions)


@mutant("position_weights", "ignored_labels", "position_weights_of_a_place", exactly=False)
def weights_of_positions_in_the_loss_alone() -> Made:
    return patched(Forward, "mask", lambda self: None)


@mutant("position_weights", "ignored_labels", "position_weights_of_a_loss_of_the_caller", exactly=False)
def weights_of_positions_in_the_penalty_alone() -> Made:
    return patched(Forward, "mean_over_positions", lambda self, values: values.mean(1))


@mutant("position_weights", "ignored_labels", exactly=False)
def sum_over_positions_divided_by_the_batch() -> Made:
    def of(cls, call, batch, like, positions):  # type: ignore[no-untyped-def]
        mean = plain(call, batch, like, positions)
        return mean if positions is None or call.normalizer is not None else replace(mean, normalizer=float(batch))

    plain = _Mean.of
    return patched(_Mean, "of", classmethod(of))


@mutant("position_weights_of_a_place")
def weights_of_positions_not_those_of_a_place() -> Made:
    return _plainly(forward, "_of_place", lambda plain, whole, of, value: None)


@mutant("position_weights_of_a_loss_of_the_caller")
def plain_mean_of_the_callers_losses() -> Made:
    def mean(plain, self, values):  # type: ignore[no-untyped-def]
        return plain(self, values) if self.call.loss_fn is None else values.mean(1)

    return _plainly(Forward, "mean_over_positions", mean)


@mutant("ignored_labels")
def ignored_labels_counted() -> Made:
    def ignored(plain, ops, call, y, layout, like, index):  # type: ignore[no-untyped-def]
        return torch.ones_like(plain(ops, call, y, layout, like, index))

    return _plainly(forward, "ignored", ignored)
