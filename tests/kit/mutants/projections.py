"""Mutants whose directions are wrong.

Left out, because they are equal: rows in another order or with other signs (the norm is over all of them), a frame of
another Haar-distributed basis with the same first rows, and fisher's class counted from the other end of the cumulative
sum, which is another draw from the same distribution, but one that the specification rules out.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch

from gradreg_core import engine, projections
from gradreg_core.random import STREAM_DIRECTION, Draws, make_draws
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant, patched, per_sample

__all__: list[str] = []

Made = AbstractContextManager[TorchHarness]


def _changed(kind: type[projections.Projection], change: Callable[[Any, Any, Any], Any]) -> Made:
    """`change(projection, context, rows of W)` in place of the rows (c, B, positions, classes)."""
    plain = kind.directions

    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        return change(self, context, plain(self, context, rows))

    return patched(kind, "directions", directions)


@mutant("projection_exact")
def whole_jacobian_estimated_from_three_rows() -> Made:
    def estimated(plain, term, forward):  # type: ignore[no-untyped-def]
        values = plain(term, forward)
        size = math.prod(forward.layout.canonical[1:])
        whole = term.projection == projections.exact() and term.norm == "l2" and term.squared
        if not whole or term.output == "loss" or size <= 3:
            return values
        first = torch.eye(size, dtype=torch.float64)[:3].tolist()
        three = replace(term, projection=projections.direction(first))
        return plain(three, forward) * (size / 3)

    return per_sample(estimated)


@mutant("projection_gaussian")
def sum_over_draws_for_their_mean() -> Made:
    return _changed(projections.gaussian, lambda self, context, W: W * math.sqrt(self.k))


@mutant("projection_rademacher")
def mean_over_draws_taken_twice() -> Made:
    return _changed(projections.rademacher, lambda self, context, W: W / math.sqrt(self.k))


@mutant("projection_sphere")
def unbiased_divided_by_m_once_more() -> Made:
    return _changed(
        projections.sphere, lambda self, context, W: W / math.sqrt(context.size) if self.unbiased and self.k > 1 else W
    )


@mutant("projection_sphere", exactly=False)
def one_length_for_the_whole_batch() -> Made:
    def change(self, context, W):  # type: ignore[no-untyped-def]
        drawn = context.rows(context.draws.gaussians(STREAM_DIRECTION, range(len(W)), context.size))
        return self._scaled(context, drawn / drawn.norm())

    return _changed(projections.sphere, change)


@mutant("projection_orthonormal")
def independent_rows_for_orthonormal_ones() -> Made:
    sphere = projections.sphere.directions

    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        honest = self.unbiased or self.k > context.size
        return plain(self, context, rows) if honest else sphere(self, context, rows)

    plain = projections.orthonormal.directions
    return patched(projections.orthonormal, "directions", directions)


@mutant("projection_random_onehot")
def last_class_never_drawn() -> Made:
    def change(self, context, W):  # type: ignore[no-untyped-def]
        if self.k == 1 or context.mask is not None:
            return W
        picks = context.draws.integers(STREAM_DIRECTION, range(len(W)), context.size - 1)
        basis = torch.nn.functional.one_hot(picks.long(), context.size)
        return self._scaled(context, context.rows(basis))

    return _changed(projections.random_onehot, change)


@mutant("projection_onehot")
def class_of_the_first_sample_for_all() -> Made:
    """Of few classes: `ranges_of_half_precision` looks at labels that float16 cannot count."""
    return _changed(projections.onehot, lambda self, context, W: W[:, :1].expand(W.shape) if W.shape[-1] < 256 else W)


@mutant("projection_ones")
def mean_of_the_outputs_for_their_sum() -> Made:
    return _changed(
        projections.ones, lambda self, context, W: W / context.size if context.components == "outputs" else W
    )


@mutant("projection_top_k")
def largest_logit_alone() -> Made:
    plain = projections.top_k.directions

    def directions(self, context, rows):  # type: ignore[no-untyped-def]
        return plain(self if self.k > context.shape[2] else projections.top_k(1), context, rows)

    return patched(projections.top_k, "directions", directions)


@mutant("projection_direction")
def given_vector_brought_to_unit_length() -> Made:
    def change(self, context, W):  # type: ignore[no-untyped-def]
        return W / W.norm(dim=-1, keepdim=True) if len(self._matrix) == 1 and context.size > 3 else W

    return _changed(projections.direction, change)


@mutant("directions_of_the_call")
def given_directions_of_the_first_sample_for_all() -> Made:
    def change(self, context, W):  # type: ignore[no-untyped-def]
        return W if self._matrix else W[:, :1].expand(W.shape)

    return _changed(projections.direction, change)


@mutant("random_projections_are_unbiased")
def directions_that_repeat_after_64_logits() -> Made:
    def change(self, context, W):  # type: ignore[no-untyped-def]
        return W[..., torch.arange(W.shape[-1]) % 64]

    return _changed(projections.rademacher, change)


# --- seeds, steps and samples -----------------------------------------------------------------------------------------
def _drawn(change: Callable[..., Draws]) -> Made:
    def change_all(ops, seed, step, ids, like):  # type: ignore[no-untyped-def]
        return change(ops, seed, step, ops.asarray(ids, like))

    return patched(engine, "make_draws", change_all)


@mutant("step")
def step_ignored() -> Made:
    return _drawn(lambda ops, seed, step, ids: make_draws(ops, seed, 0, ids))


@mutant("seed")
def seed_of_32_bits() -> Made:
    return _drawn(lambda ops, seed, step, ids: make_draws(ops, seed & 0xFFFFFFFF, step, ids))


@mutant("projection_gaussian", "projection_sphere", exactly=False)
def seed_ignored() -> Made:
    return _drawn(lambda ops, seed, step, ids: make_draws(ops, 0, step, ids))


@mutant("sample_ids")
def sample_numbers_of_16_bits() -> Made:
    return _drawn(lambda ops, seed, step, ids: make_draws(ops, seed, step, ids & 0xFFFF))


@mutant("sample_ids", "a_large_batch_is_the_sum_of_its_parts", exactly=False)
def draws_by_the_place_in_the_shard() -> Made:
    return _drawn(lambda ops, seed, step, ids: make_draws(ops, seed, step, torch.arange(len(ids), dtype=torch.int32)))


@mutant("projection_gaussian", exactly=False)
def one_draw_for_all_samples() -> Made:
    return _drawn(lambda ops, seed, step, ids: make_draws(ops, seed, step, ids[:1] * 0))


@mutant("draw_per_batch")
def per_batch_read_as_the_first_sample_s_draw() -> Made:
    def pulled(term, forward):  # type: ignore[no-untyped-def]
        if term.draw == "per_batch" and forward.sample_ids is not None:
            same = forward.sample_ids[:1].expand(forward.sample_ids.shape)
            term, forward = replace(term, draw="per_sample"), replace(forward, sample_ids=same)
        return plain(term, forward)

    plain = engine._pulled_rows
    return patched(engine, "_pulled_rows", pulled)
