"""Mutants that are wrong for rare choices: many rows, one sample, images, one logit at each position, thresholds."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import calls, engine, evaluation, forward, projections
from gradreg_core.evaluation import _Batch, _Mean
from gradreg_core.forward import Forward
from gradreg_core.inputs import Arguments
from gradreg_core.layout import Layout
from gradreg_core.norms import hinge, target
from gradreg_core.outputs import _LogProbabilities
from gradreg_core.terms import Term
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant, patched

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]
_RARE = "choices_that_are_rare"


@mutant(_RARE)
def many_rows_on_the_sphere_not_averaged() -> Made:
    plain = projections.sphere._scaled

    def scaled(self, context, rows):  # type: ignore[no-untyped-def]
        return plain(self, context, rows) * (1 if self.k <= 8 else math.sqrt(self.k))

    return patched(projections.sphere, "_scaled", scaled)


@mutant(_RARE)
def many_iterations_cut_short() -> Made:
    plain = projections.top_singular.directions

    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        return plain(replace(self, iterations=min(self.iterations, 6)), context, rows)

    return patched(projections.top_singular, "directions", directions)


@mutant(_RARE)
def rows_of_a_matrix_above_three_dropped() -> Made:
    plain = projections.direction.count
    return patched(projections.direction, "count", lambda self, size: min(plain(self, size), 3))


@mutant(_RARE)
def the_number_of_a_single_sample_ignored() -> Made:
    plain = engine.draws_of

    def draws(term, call, batch, ids, like):  # type: ignore[no-untyped-def]
        return plain(term, call, batch, None if batch == 1 else ids, like)

    return patched(engine, "draws_of", draws)


@mutant(_RARE)
def the_mean_of_one_sample_without_its_weight() -> Made:
    plain = _Mean.__call__

    def mean(self, values, part=None):  # type: ignore[no-untyped-def]
        return values.sum() if self.batch == 1 else plain(self, values, part)

    return patched(_Mean, "__call__", mean)


@mutant(_RARE)
def classes_on_the_last_axis_of_images() -> Made:
    plain = calls.checked

    def altered(call: Any, *others: Any) -> Any:
        came, arguments = plain(call, *others)
        return (replace(came, class_axis=-1) if came.class_axis == 2 else came), arguments

    return patched(calls, "checked", altered)


@mutant(_RARE)
def images_with_rows_and_columns_swapped() -> Made:
    plain = Layout.to_canonical

    def canonical(self, ops, outputs):  # type: ignore[no-untyped-def]
        if len(self.shape) != 4 or self.class_axis != -3:
            return plain(self, ops, outputs)
        return outputs.permute(0, 3, 2, 1).reshape(self.canonical)

    return patched(Layout, "to_canonical", canonical)


@mutant(_RARE)
def a_softmax_over_the_positions_of_single_logits() -> Made:
    plain = Forward.probabilities

    def probabilities(self, asker):  # type: ignore[no-untyped-def]
        _, positions, classes = self.layout.canonical
        return torch.softmax(self.logits, 1) if classes == 1 < positions else plain(self, asker)

    return patched(Forward, "probabilities", probabilities)


@mutant(_RARE)
def weights_rounded_to_half_precision() -> Made:
    plain = evaluation.weights

    def rounded(ops, call, name, array, dtype):  # type: ignore[no-untyped-def]
        wide = plain(ops, call, name, array, dtype)
        return wide.to(torch.float16).to(wide.dtype)

    return patched(evaluation, "weights", rounded)


def _ignoring(change: Callable[[Any], Any]) -> Made:
    """A harness whose calls take `change(ignore_index)` for ignore_index=."""
    plain = calls.checked

    def altered(call: Any, *others: Any) -> Any:
        came, arguments = plain(call, *others)
        return replace(came, ignore_index=change(came.ignore_index)), arguments

    return patched(calls, "checked", altered)


@mutant("ignored_labels")
def an_ignored_class_of_number_0_counted() -> Made:
    return _ignoring(lambda index: index or None)


@mutant("ignored_labels")
def every_negative_label_to_ignore_taken_for_minus_100() -> Made:
    return _ignoring(lambda index: -100 if index is not None and index < 0 else index)


@mutant(_RARE)
def a_single_logits_probability_as_a_constant_to_the_tangent() -> Made:
    plain = _LogProbabilities.push

    def push(self, forward, t):  # type: ignore[no-untyped-def]
        single = forward.layout.canonical[2] == 1
        return t * (1 - self._probabilities(forward).detach()) if single else plain(self, forward, t)

    return patched(_LogProbabilities, "push", push)


@mutant(_RARE)
def outputs_of_one_axis_that_are_certain() -> Made:
    plain = Forward.probabilities

    def probabilities(self, asker):  # type: ignore[no-untyped-def]
        return torch.ones_like(self.logits) if len(self.layout.shape) == 1 else plain(self, asker)

    return patched(Forward, "probabilities", probabilities)


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
