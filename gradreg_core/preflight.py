"""The pre-flight check: finds on one batch, before training, what would go wrong in it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import BatchNormError, DoubleBackwardError, GradregError, InputError
from gradreg_core.layout import Layout, is_floating
from gradreg_core.norms import identity
from gradreg_core.projections import fisher, gaussian, top_k, top_singular
from gradreg_core.random import STREAM_START, make_draws
from gradreg_core.spec import JacobianPenalty, Regularizer, Sum

__all__ = ["AGREEMENT", "CheckReport", "Finding", "compare", "run_check", "smooth_terms"]

_RELATIVE_STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Relative steps of the central differences: some step suits the curvature and the roundoff of any usual model."""
AGREEMENT = 5e-3
"""A right gradient agrees with the best of these differences to about 1e-3 in float32; the errors that frameworks make
in second derivatives are of 1e-2 and more."""
_SETTLED = 0.1
"""Differences that agree ten times better with each other than with the gradient speak against the gradient."""
_SMALLER_H = 4
"""The divisor of h in the check of method='difference'."""
_STEADY = 0.25
"""How much the gradient by difference may change with h. On a smooth model the change is of order h: 0.01."""
_SUM_TOLERANCE = 1e-2
"""Of a sum of probabilities: two units in the last place of bfloat16."""
_NEGLIGIBLE_NORM = 1e-5
"""A hundred times the rounding of float32. A Gaussian is as small as that once in 100,000 draws."""


@dataclass(frozen=True)
class Finding:
    """One result of the check."""

    level: str
    """"error" (training would fail or be wrong) or "warning" (training may not do what is meant)."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}: {self.problem} {self.remedy}".rstrip()


@dataclass(frozen=True)
class CheckReport:
    """The findings, and how far the penalty's gradient was from finite differences."""

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
            no_second = any("second derivative" in finding.problem for finding in self.findings)
            raise (DoubleBackwardError if no_second else InputError)(str(self))


class _Calls(Protocol):
    """The calls of a backend; see :class:`gradreg_core.calls.Calls`."""

    backend: Backend

    @property
    def loss(self) -> Callable[..., Any]: ...

    @property
    def penalty(self) -> Callable[..., Any]: ...


@dataclass(frozen=True)
class _Subject:
    """The arguments of the call that is checked."""

    calls: _Calls
    model: Any
    x: Array
    y: Any
    reg: Regularizer
    options: dict[str, Any]

    @property
    def ops(self) -> Backend:
        return self.calls.backend

    def penalty(self, x: Array, reg: Regularizer, model: Any = None) -> Array:
        """The penalty of `reg` at x."""
        model = self.model if model is None else model
        return self.calls.penalty(model, x, self.y, reg, batch_norm="allow", **self.options)

    def number(self, value: Array) -> float:
        return float(self.ops.stop_gradient(value))

    def length(self, array: Array) -> float:
        return math.sqrt(self.number(self.ops.sum(array * array, _axes(self.ops, array))))


def _axes(ops: Backend, array: Array) -> tuple[int, ...]:
    return tuple(range(len(ops.shape(array))))


def run_check(calls: _Calls, model: Any, x: Array, y: Any, reg: Regularizer, options: dict[str, Any]) -> CheckReport:
    """See :meth:`gradreg_core.calls.Calls.check`."""
    subject, ops = _Subject(calls, model, x, y, reg, options), calls.backend
    findings: list[Finding] = []
    disagreement = outputs = None
    with ops.repeatable(model):
        try:
            outputs = calls.loss(model, x, y, reg, batch_norm="error", **options)[1].outputs
        except BatchNormError as error:
            findings.append(Finding("warning", str(error), ""))
        except GradregError as error:
            return CheckReport((Finding("error", str(error), ""),), None)
    of_framework, blocked = ops.diagnose(calls, model, x, y, reg, options)
    findings += [Finding(*row) for row in of_framework]
    if blocked:
        return CheckReport(tuple(findings), None)
    if outputs is not None and options["loss_fn"] is None:
        findings += _probabilities(subject, outputs)
    empty = _empty_terms(subject)
    findings += empty
    all_empty = bool(empty) and len(empty) == len(_jacobian_terms(subject.reg))
    if not all_empty and is_floating(ops.dtype(x)):
        disagreement, settled = _against_differences(subject)
        findings += _wrong_gradient(disagreement, settled)
        findings += _random_pairs(subject) or _kinks(subject)
    return CheckReport(tuple(findings), disagreement)


def _wrong_gradient(disagreement: float | None, settled: bool) -> list[Finding]:
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


def _probabilities(subject: _Subject, outputs: Array) -> list[Finding]:
    """Outputs that are distributions already, where logits are expected."""
    ops = subject.ops
    layout = Layout.of("check", ops.shape(outputs), ops.shape(subject.x)[0], subject.options["class_axis"])
    values = ops.stop_gradient(layout.to_canonical(ops, outputs))
    if layout.canonical[2] < 2 or not is_floating(ops.dtype(values)):
        return []
    excess = ops.sum(values, 2) - 1.0
    excess = ops.where(excess * excess > _SUM_TOLERANCE**2, excess * excess, 0.0)
    if float(ops.sum(ops.where(values < 0, values, 0.0), (0, 1, 2))) or float(ops.sum(excess, (0, 1))):
        return []
    return [
        Finding(
            "warning",
            "the outputs of each sample are positive with sum 1, as behind a softmax. The loss applies a softmax of "
            "its own, and the penalties are of the logits' Jacobian.",
            "Return the logits, or pass the loss as loss_fn=.",
        )
    ]


def _empty_terms(subject: _Subject) -> list[Finding]:
    """Terms that penalise nothing with one draw for the batch, and something with a draw for each sample."""

    def norm(term: JacobianPenalty) -> float:
        with subject.ops.repeatable(subject.model):
            return subject.number(subject.penalty(subject.x, term))

    findings = []
    for given in subject.reg.terms:
        lowered = given.lower()
        if lowered is None or lowered.draw != "per_batch":
            continue
        term = replace(lowered, weight=1.0, every=1, fraction=1.0, scale=1.0, squared=False, phi=identity())
        shared, own = norm(term), norm(replace(term, draw="per_sample"))
        if shared <= _NEGLIGIBLE_NORM * own and own > 0:
            findings.append(
                Finding(
                    "warning",
                    f"{given!r} penalises nothing but rounding: with one direction for the whole batch the norm is "
                    f"{shared:.1e}, with one for each sample {own:.1e}. This is expected behind batch normalisation "
                    f"in training mode: the sum of the projected outputs does not depend on x.",
                    "Leave draw='per_batch' out, or use GroupNorm or LayerNorm.",
                )
            )
    return findings


def _random_pairs(subject: _Subject) -> list[Finding]:
    """Whether the two passes of a difference are of two random functions, whose difference is divided by h."""
    ops, model, x = subject.ops, subject.model, subject.x
    if not any(term.method == "difference" for term in _jacobian_terms(subject.reg)):
        return []
    with ops.repeatable(model):
        first, second = map(ops.stop_gradient, ops.call_twice(model, x, x))
    if subject.length(first - second) <= AGREEMENT * subject.length(first):
        return []
    return [
        Finding(
            "error",
            "method='difference' passes through the model twice, and on equal inputs the two passes differ: a layer "
            "draws random numbers that are out of the backend's reach.",
            "Pass the model itself instead of a function that calls it, or use method='jvp'.",
        )
    ]


def _kinks(subject: _Subject) -> list[Finding]:
    """Whether a penalty by difference has a gradient that depends on h, as it has on networks with kinks alone."""
    ops, model, x = subject.ops, subject.model, subject.x
    terms = [term for term in _jacobian_terms(subject.reg) if term.method == "difference"]
    if not terms:
        return []

    def slope(divisor: int) -> Array:
        nearer = Sum(tuple(replace(term, h=term.h / divisor) for term in terms))
        with ops.repeatable(model):
            value, pullback = ops.vjp(lambda point: ops.reshape(subject.penalty(point, nearer), (1,)), x)
            return pullback(value * 0 + 1)

    far, near = slope(1), slope(_SMALLER_H)
    change = subject.length(far - near) / max(subject.length(near), 1e-30)
    if change <= _STEADY:
        return []
    return [
        Finding(
            "warning",
            f"the gradient of the penalty by method='difference' changes by {change:.0%} when h is divided by "
            f"{_SMALLER_H}: the model has kinks (ReLU, max pooling), and each that lies within h ||v|| adds "
            f"a jump divided by h.",
            "Use the output side or method='jvp', or smooth layers (GELU, tanh, average pooling).",
        )
    ]


def _jacobian_terms(reg: Regularizer) -> list[JacobianPenalty]:
    """The Jacobian terms in the general form, charged at this step for all samples with weight 1."""
    lowered = [term.lower() for term in reg.terms]
    return [replace(term, weight=1.0, every=1, fraction=1.0) for term in lowered if term is not None]


def smooth_terms(reg: Regularizer) -> Regularizer | None:
    """The Jacobian terms at the input, with directions that do not themselves depend on the input."""
    terms = tuple(
        JacobianPenalty(1.0, projection=gaussian(), seed=term.seed)
        if isinstance(term.projection, top_singular | top_k | fisher)
        else term
        for term in _jacobian_terms(reg)
        if term.at is None
    )
    return Sum(terms) if terms else None


def _against_differences(subject: _Subject) -> tuple[float | None, bool]:
    """The penalty's derivative along a random input direction against central differences, with kinks rounded off.

    Returns:
        (relative difference, whether the differences settle); see :func:`compare`.
    """
    smooth = smooth_terms(subject.reg)
    if smooth is None:
        return None, True
    with subject.ops.smoothed(subject.model, subject.x) as rounded:
        return _disagreement(subject, rounded, smooth)


def _disagreement(subject: _Subject, rounded: Any, smooth: Regularizer) -> tuple[float, bool]:
    """See :func:`_against_differences`; `rounded` is the model with its kinks rounded off."""
    ops, model, x = subject.ops, subject.model, subject.x
    axes, size = _axes(ops, x), math.prod(ops.shape(x))
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
