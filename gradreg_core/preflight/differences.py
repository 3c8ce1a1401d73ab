"""The penalty's derivative against finite differences."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from gradreg_core.backend import Array
from gradreg_core.preflight.report import Finding
from gradreg_core.preflight.subject import Subject, axes_of, smooth_terms
from gradreg_core.random import STREAM_START, make_draws
from gradreg_core.spec import Regularizer

__all__ = ["AGREEMENT", "against_differences", "compare", "wrong_gradient"]


_RELATIVE_STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Relative steps of the central differences: some step suits the curvature and the roundoff of any usual model."""
AGREEMENT = 5e-3
"""A right gradient agrees with the best of these differences to about 1e-3 in float32; the errors that frameworks make
in second derivatives are of 1e-2 and more."""
_SETTLED = 0.1


def wrong_gradient(disagreement: float | None, settled: bool) -> list[Finding]:
    """What the finite differences say of the gradient."""
    if disagreement is None or disagreement <= AGREEMENT:
        return []
    if not settled:
        return [
            Finding(
                "warning",
                f"finite differences of the penalty do not settle, the nearest is {disagreement:.1%} off, so its "
                f"gradient could not be verified: the model has kinks that the check does not round off, or is "
                f"random.",
                "",
            )
        ]
    return [
        Finding(
            "error",
            f"the penalty's gradient differs from finite differences by {disagreement:.1%}: some operation of "
            f"the model has a wrong second derivative in this framework, or the model is random.",
            "Replace normalisation and pooling layers one by one to find which it is.",
        )
    ]


def against_differences(subject: Subject) -> tuple[float | None, bool]:
    """The penalty's derivative along a random input direction against central differences, with kinks rounded off.

    Returns:
        (relative difference, whether the differences settle); see :func:`compare`.
    """
    smooth = smooth_terms(subject.reg)
    if smooth is None:
        return None, True
    with subject.ops.smoothed(subject.model, subject.x) as rounded:
        return _disagreement(subject, rounded, smooth)


def _disagreement(subject: Subject, rounded: Any, smooth: Regularizer) -> tuple[float, bool]:
    """See :func:`against_differences`; `rounded` is the model with its kinks rounded off."""
    ops, model, x = subject.ops, subject.model, subject.x
    axes, size = axes_of(ops, x), math.prod(ops.shape(x))
    draws = make_draws(ops, 0, 0, ops.arange(1, x))
    v = ops.astype(ops.reshape(draws.gaussians(STREAM_START, (0,), size), ops.shape(x)), ops.dtype(x))

    def penalty_value(point: Array) -> float:
        with ops.repeatable(model):
            return subject.number(subject.penalty(point, smooth, rounded))

    def connected(point: Array) -> Array:
        value = subject.penalty(point, smooth, rounded)
        # The penalty of a linear model is a constant, through which there is nothing to pull back.
        return ops.reshape(value + ops.astype(ops.sum(point * 0, axes), ops.dtype(value)), (1,))

    with ops.repeatable(model):
        value, pullback = ops.vjp(connected, x)
        slope = subject.number(ops.sum(pullback(value * 0 + 1) * v, axes))
    length = subject.length(x) / math.sqrt(size) or 1.0
    floor = 1e-3 * abs(subject.number(value[0])) / length
    distances = [step * length for step in _RELATIVE_STEPS]
    differences = [(penalty_value(x + h * v) - penalty_value(x - h * v)) / (2 * h) for h in distances]
    return compare(slope, differences, distances, floor)


def compare(slope: float, differences: Sequence[float], distances: Sequence[float], floor: float) -> tuple[float, bool]:
    """A derivative against central differences.

    Args:
        slope: the derivative.
        differences: (f(h) - f(-h)) / (2 h) for each h.
        distances: the h, from the largest to the smallest.
        floor: values below it count as it.

    Returns:
        The relative difference from the nearest, and whether they settle on a value, right or wrong, as those of a
        smooth function do.
    """

    def apart(first: float, second: float) -> float:
        return abs(first - second) / max(abs(first), abs(second), floor, 1e-30)

    # Richardson: the error of a central difference goes like the square of its step.
    better = [
        near + (near - far) / ((h / closer) ** 2 - 1)
        for (far, near), (h, closer) in zip(pairwise(differences), pairwise(distances), strict=True)
    ]
    best = min(apart(difference, slope) for difference in (*differences, *better))
    return best, min(apart(*pair) for pair in pairwise(differences)) <= _SETTLED * best
