"""The pre-flight check: what would go wrong in training, found on one batch before it starts."""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import BatchNormError, DoubleBackwardError, GradregError, InputError
from gradreg_core.layout import Layout, is_floating
from gradreg_core.norms import identity
from gradreg_core.projections import fisher, gaussian, top_k, top_singular
from gradreg_core.random import STREAM_START, make_draws
from gradreg_core.spec import JacobianPenalty, JacobianTerm, Regularizer, Sum

if TYPE_CHECKING:
    from gradreg_core.calls import Calls
    from gradreg_core.engine import Options

__all__ = ["CheckReport", "Finding", "compare", "run_check"]

_STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Relative steps of the central differences: some step suits the curvature and the roundoff of any usual model."""
_AGREEMENT = 5e-3
"""A right gradient agrees with the best of these differences to about 1e-3 in float32; the errors that frameworks make
in second derivatives are of 1e-2 and more."""

_SETTLED = 0.1
"""Differences that agree ten times better with each other than with the gradient speak against the gradient."""
_CLOSER = 4
_STEADY = 0.25
"""On a smooth model the change is of order h: 0.01 at the default."""
_ONE = 1e-2
"""Of a sum of probabilities: two units in the last place of bfloat16."""
_NOTHING = 1e-5
"""Of a norm: a hundred times the rounding of float32. A Gaussian is as small as that once in 100,000 draws."""


@dataclass(frozen=True)
class Finding:
    """One thing that the check found."""

    level: str
    """"error" (training would fail or be wrong) or "warning" (it may not be what is meant)."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}: {self.problem} {self.remedy}".rstrip()


@dataclass(frozen=True)
class CheckReport:
    """What the check found, and how far the penalty's gradient was from finite differences."""

    findings: tuple[Finding, ...]
    disagreement: float | None
    """Relative difference between the directional derivative of the penalty along a random input direction and the
    best central difference; None where it could not be formed."""

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.level == "error" for finding in self.findings)

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings]
        if self.disagreement is not None:
            lines.append(f"penalty gradient against finite differences: relative difference {self.disagreement:.1e}")
        return "\n".join([f"gradreg check: {'passed' if self.ok else 'failed'}", *lines])

    def raise_if_failed(self) -> None:
        """Raise the errors, if any.

        Raises:
            DoubleBackwardError: an operation has no second derivative.
            InputError: anything else is wrong.
        """
        if not self.ok:
            kind = (
                DoubleBackwardError
                if any("second derivative" in each.problem for each in self.findings)
                else InputError
            )
            raise kind(str(self))


def run_check(calls: "Calls", model: Any, x: Array, y: Any, reg: Regularizer, options: "Options") -> CheckReport:
    """See :meth:`gradreg_core.calls.Calls.check`."""
    options = {"step": 0, **options}
    calls._call("check", x, reg, "allow", options)
    ops = calls.backend
    findings: list[Finding] = []
    disagreement = outputs = None
    with ops.repeatable(model):
        try:
            outputs = calls.loss(model, x, y, reg, batch_norm="error", **options)[1].outputs
        except BatchNormError as error:
            findings.append(Finding("warning", str(error), ""))
        except GradregError as error:
            findings.append(Finding("error", str(error), ""))
            return CheckReport(tuple(findings), None)
    found, blocked = ops.diagnose(calls, model, x, y, reg, options)
    findings += [Finding(*each) for each in found]
    if blocked:
        return CheckReport(tuple(findings), None)
    if outputs is not None and options.get("loss_fn") is None:
        findings += _probabilities(ops, x, outputs, options)
    empty = _empty(calls, model, x, y, reg, options)
    findings += empty
    all_empty = bool(empty) and len(empty) == sum(isinstance(term, JacobianTerm) for term in reg.terms)
    if not all_empty and is_floating(ops.dtype(x)):
        disagreement, settled = _against_differences(calls, model, x, y, reg, options)
        if disagreement is not None and not disagreement <= _AGREEMENT and not settled:
            findings.append(
                Finding(
                    "warning",
                    f"finite differences of the penalty do not settle, the nearest is {disagreement:.1%} off, so its "
                    f"gradient could not be verified: the model has kinks that the check does not round off, or is "
                    f"random.",
                    "",
                )
            )
        elif disagreement is not None and not disagreement <= _AGREEMENT:
            findings.append(
                Finding(
                    "error",
                    f"the penalty's gradient differs from finite differences by {disagreement:.1%}: some operation of "
                    f"the model has a wrong second derivative in this framework, or the model is random.",
                    "Replace normalisation and pooling layers one by one to find which it is.",
                )
            )
        findings += _random_pairs(ops, model, x, reg) or _kinks(calls, model, x, y, reg, options)
    return CheckReport(tuple(findings), disagreement)


def _probabilities(ops: Backend, x: Array, outputs: Array, options: "Options") -> list[Finding]:
    """Outputs that are distributions already, where logits are expected."""
    layout = Layout.of("check", ops.shape(outputs), ops.shape(x)[0], options.get("class_axis"))
    values = ops.stop_gradient(layout.to_canonical(ops, outputs))
    if layout.canonical[2] < 2 or not is_floating(ops.dtype(values)):
        return []
    off = ops.sum(values, 2) - 1.0
    off = ops.where(off * off > _ONE**2, off * off, 0.0)
    if float(ops.sum(ops.where(values < 0, values, 0.0), (0, 1, 2))) or float(ops.sum(off, (0, 1))):
        return []
    return [
        Finding(
            "warning",
            "the outputs of each sample are positive with sum 1, as behind a softmax. The loss applies a softmax of "
            "its own, and the penalties are of the logits' Jacobian.",
            "Return the logits, or pass the loss as loss_fn=.",
        )
    ]


def _empty(calls: "Calls", model: Any, x: Array, y: Any, reg: Regularizer, options: "Options") -> list[Finding]:
    """Terms whose one draw for the batch leaves nothing to penalise, where a draw for each sample does."""
    ops = calls.backend

    def norm(term: JacobianPenalty) -> float:
        with ops.repeatable(model):
            value = calls.penalty(model, x, y, term, batch_norm="allow", **options)
            return float(ops.stop_gradient(value))

    findings = []
    for given in reg.terms:
        if not isinstance(given, JacobianTerm) or given.draw != "per_batch":
            continue
        term = replace(given.lower(), weight=1.0, every=1, fraction=1.0, scale=1.0, squared=False, phi=identity())
        shared, own = norm(term), norm(replace(term, draw="per_sample"))
        if shared <= _NOTHING * own and own > 0:
            findings.append(
                Finding(
                    "warning",
                    f"{given!r} penalises nothing but rounding: with one direction for the whole batch the norm is "
                    f"{shared:.1e}, with one for each sample {own:.1e}. So it is right behind batch "
                    f"normalisation in training mode: the sum of the projected outputs does not depend on x.",
                    "Leave draw='per_batch' out, or use GroupNorm or LayerNorm.",
                )
            )
    return findings


def _random_pairs(ops: Backend, model: Any, x: Array, reg: Regularizer) -> list[Finding]:
    """Whether the two passes of a difference are of two random functions, whose difference is divided by h."""
    terms = [term.lower() for term in reg.terms if isinstance(term, JacobianTerm)]
    if not any(term.side == "input" and term.method == "difference" for term in terms) or not hasattr(
        ops, "call_twice"
    ):
        return []
    with ops.repeatable(model):
        first, second = (ops.stop_gradient(each) for each in ops.call_twice(model, x, x))
    off = (first - second) * (first - second)
    axes = tuple(range(len(ops.shape(off))))
    if float(ops.sum(off, axes)) <= _AGREEMENT**2 * float(ops.sum(first * first, axes)):
        return []
    return [
        Finding(
            "error",
            "method='difference' passes through the model twice, and on equal inputs the two passes differ: a layer "
            "draws random numbers that are out of the backend's reach.",
            "Pass the model itself instead of a function that calls it, or use method='jvp'.",
        )
    ]


def _kinks(calls: "Calls", model: Any, x: Array, y: Any, reg: Regularizer, options: "Options") -> list[Finding]:
    """Whether a penalty by difference has a gradient that depends on h, as it has on networks with kinks alone."""
    ops = calls.backend
    terms = [term.lower() for term in reg.terms if isinstance(term, JacobianTerm)]
    terms = [replace(term, weight=1.0, every=1, fraction=1.0) for term in terms if term.method == "difference"]
    if not terms:
        return []

    def slope(divisor: int) -> Array:
        nearer = Sum(tuple(replace(term, h=term.h / divisor) for term in terms))

        def penalty(at: Array) -> Array:
            return ops.reshape(calls.penalty(model, at, y, nearer, batch_norm="allow", **options), (1,))

        with ops.repeatable(model):
            value, pullback = ops.vjp(penalty, x)
            return pullback(value * 0 + 1)

    def length(array: Array) -> float:
        return math.sqrt(float(ops.stop_gradient(ops.sum(array * array, tuple(range(len(ops.shape(array))))))))

    far, near = slope(1), slope(_CLOSER)
    change = length(far - near) / max(length(near), 1e-30)
    if change <= _STEADY:
        return []
    return [
        Finding(
            "warning",
            f"the gradient of the penalty by method='difference' changes by {change:.0%} when h is divided by "
            f"{_CLOSER}: the model has kinks (ReLU, max pooling), and each that lies within h ||v|| adds "
            f"a jump divided by h.",
            "Use the output side or method='jvp', or smooth layers (GELU, tanh, average pooling).",
        )
    ]


def _smooth(reg: Regularizer) -> Regularizer | None:
    """The Jacobian terms at the input, with directions that do not themselves depend on the input."""
    terms = []
    for term in reg.terms:
        if isinstance(term, JacobianTerm) and term.at is None:
            lowered = replace(term.lower(), weight=1.0, every=1, fraction=1.0)
            if isinstance(lowered.projection, top_singular | top_k | fisher):
                lowered = JacobianPenalty(1.0, projection=gaussian(), seed=term.seed)
            terms.append(lowered)
    return Sum(tuple(terms)) if terms else None


def _against_differences(
    calls: "Calls", model: Any, x: Array, y: Any, reg: Regularizer, options: "Options"
) -> tuple[float | None, bool]:
    """Relative difference of the penalty's derivative along a random input direction from central differences.

    And whether these settle on a value, right or wrong, as those of a smooth function do.
    """
    ops = calls.backend
    smooth = _smooth(reg)
    if smooth is None:
        return None, True
    rounding = getattr(ops, "smoothed", None)
    with nullcontext(model) if rounding is None else rounding(model, x) as rounded:
        return _disagreement(calls, model, rounded, x, y, smooth, options)


def _disagreement(
    calls: "Calls", model: Any, rounded: Any, x: Array, y: Any, smooth: Regularizer, options: "Options"
) -> tuple[float, bool]:
    """The same of one regularizer, for the model with its kinks rounded off."""
    ops = calls.backend

    def penalty(at: Array) -> Array:
        return calls.penalty(rounded, at, y, smooth, batch_norm="allow", **options)

    def number(value: Array) -> float:
        return float(ops.stop_gradient(value))

    def penalty_value(at: Array) -> float:
        with ops.repeatable(model):
            return number(penalty(at))

    size = math.prod(ops.shape(x))
    ids = ops.arange(1, x)
    v = ops.reshape(make_draws(ops, 0, 0, ids).gaussians(STREAM_START, (0,), size), ops.shape(x))
    v = ops.astype(v, ops.dtype(x))
    axes = tuple(range(len(ops.shape(x))))

    def connected(at: Array) -> Array:
        value = penalty(at)  # of a linear model a constant, through which there is nothing to pull back
        return ops.reshape(value + ops.astype(ops.sum(at * 0, axes), ops.dtype(value)), (1,))

    with ops.repeatable(model):
        value, pullback = ops.vjp(connected, x)
        slope = number(ops.sum(pullback(value * 0 + 1) * v, axes))
    length = math.sqrt(number(ops.sum(x * x, axes)) / size) or 1.0
    floor = 1e-3 * abs(number(value[0])) / length
    distances = [step * length for step in _STEPS]
    found = [(penalty_value(x + h * v) - penalty_value(x - h * v)) / (2 * h) for h in distances]
    return compare(slope, found, distances, floor)


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
    best = min(apart(each, slope) for each in (*differences, *better))
    return best, min(apart(*pair) for pair in pairwise(differences)) <= _SETTLED * best
