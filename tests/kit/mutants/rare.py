"""Mutants that are wrong for many rows, one sample, images, or one logit at each position."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import calls, engine, evaluation, projections
from gradreg_core.evaluation import _Mean
from gradreg_core.forward import Forward
from gradreg_core.layout import Layout
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
