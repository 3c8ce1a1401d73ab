"""Whether a framework's second derivatives are right at one point, against differences of its first derivatives.

With w fixed, g(x, A, ...) = J^T w is the gradient of <w, f> with respect to x, and dg/dt its derivative along a
direction u of x, A, ..., by differences in float64. The framework's gradient of Q = ||g||^2 along u must equal
2 <g, dg/dt>; every composition of forward and reverse mode that gives the mixed derivative along v and u must equal
<v, dg/dt>. The third derivative along v, v and u must equal the derivative of the second one, by reverse mode twice.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from gradreg_sweep.compositions import FORWARD, PENALTY, THIRD
from gradreg_sweep.differences import ENOUGH, Estimate, derivative
from gradreg_sweep.precision import rounded
from gradreg_sweep.problem import Problem

__all__ = [
    "KINDS",
    "LONGEST",
    "SILENT",
    "UNTRIED",
    "Reference",
    "Slopes",
    "Verdict",
    "judge",
    "load",
    "message",
    "neighbours",
    "slopes_of",
]

KINDS = {
    "right": "agrees with differences",
    "wrong": "the second derivative is wrong, without an error",
    "None": "a part of the second derivative is None, without an error",
    "NaN": "the second derivative is NaN or infinite",
    "raises": "there is no second derivative, and the framework raises an error",
    "first derivative": "the first derivative is already wrong or missing",
    "undecided": "differences do not converge, or rounding takes the digits, at any point that was tried",
}
"""Kind -> what it means."""
SILENT = ("wrong", "None", "NaN")
"""Kinds that go unnoticed in training, or are noticed late."""

RIGHT = 1e-7
"""Relative. Rounding in float64 leaves 1e-12 or so, ill-conditioned linear algebra 1e-9."""
DECIDED = 1e-3
"""The point is rejected if ten times the differences' own error is relatively larger than this."""
MARGIN = 10.0
"""On the differences' estimate of their own error, which is not a bound."""
SINGLE = 3e-3
"""Relative, for an operation that computes in float32 inside: its differences are not better than that."""
UNTRIED = "not tried"
"""The kind of an operation that could not be judged."""
ENOUGH_LOW = 1e-6
"""Relative error of differences that is enough for a dtype below float64."""
LONGEST = 200
"""Characters of an error's message that are kept."""
ROUNDINGS = 32.0
"""On the change of a result when the arrays are perturbed in the last place, the largest of three."""


@dataclass(frozen=True)
class Verdict:
    """The result at one point.

    Args:
        kind: one of KINDS.
        error: relative, if numbers disagree.
        array: the name of the array whose gradient was judged.
        detail: the error raised, or another remark.
        single: whether the operation computes in float32 although its arrays are float64.
    """

    kind: str
    error: float = 0.0
    array: str = "x"
    detail: str = ""
    single: bool = False


class Reference:
    """A problem in the plain mode and float64: the point where it is judged, and its differences there, computed once.

    Args:
        problem: in the plain mode and float64.
        low: whether it serves a dtype below float64: its numbers are rounded, and differences need fewer digits.
    """

    def __init__(self, problem: Problem, low: bool = False) -> None:
        self.problem, self.low = problem, low
        rng = np.random.default_rng(0)
        cut = rounded if low else np.asarray
        self.arrays = {name: cut(value) for name, value in problem.arrays.items()}
        self.directions = {name: cut(rng.normal(size=value.shape)) for name, value in self.arrays.items()}
        middle = problem.value(self.arrays)
        self.coarse = _is_coarse(lambda t: problem.value(self.moved("x", t)), middle)
        """Whether the operation computes in float32 inside."""
        self.gradient = np.zeros(())
        """J^T w."""
        self.rounding = 2.0**-23 if self.coarse else 2.0**-52
        """The relative error of a value."""
        self.changes: dict[tuple[str, str], Estimate] = {}
        self.first = self._first()
        """A verdict if the first derivative is wrong, or cannot be judged."""

    def moved(self, name: str, t: float) -> dict[str, np.ndarray]:
        """The arrays, with one of them moved by t along its direction."""
        return self.arrays | {name: self.arrays[name] + t * self.directions[name]}

    def undecidable(self, estimate: Estimate, margin: float, scale: float) -> bool:
        """Whether differences are of no use here: a kink is near, or they do not converge."""
        return estimate.kinked or not margin <= (10 if self.coarse else 1) * DECIDED * scale

    def verdict(self, kind: str, error: float = 0.0, array: str = "x", detail: str = "") -> Verdict:
        """A verdict on the problem."""
        return Verdict(kind, error, array, detail, self.coarse)

    def change(self, of: str, name: str) -> Estimate:
        """The derivative of a value, a gradient or a curvature along the direction of an array, by differences."""
        if (of, name) not in self.changes:
            function: dict[str, Callable[[dict[str, np.ndarray]], Any]] = {
                "value": self.problem.value,
                "gradient": self.problem.gradient,
                "curvature": lambda arrays: self.problem.curvature(arrays, self.directions["x"]),
            }
            compute = function[of]
            self.changes[of, name] = derivative(
                lambda t: np.asarray(compute(self.moved(name, t)), np.float64),
                self.rounding,
                ENOUGH_LOW if self.low else ENOUGH,
            )
        return self.changes[of, name]

    def expected(self, composition: str, name: str, least: float = 1e-3) -> tuple[Estimate, float, float, float]:
        """Of the derivative along an array's direction: the differences, the number wanted, its margin and scale.

        The scale is at least the share `least` of the norms whose product bounds the sum.
        """
        v = self.directions["x"]
        base = float(np.linalg.norm(v)) * float(np.linalg.norm(self.gradient))
        of, factor = "gradient", v
        if composition == PENALTY:
            factor, base = 2 * self.gradient, float(np.sum(self.gradient**2))
        elif composition in (FORWARD, *THIRD):
            of, factor = "value" if composition == FORWARD else "curvature", np.ones(())
        estimate = self.change(of, name)
        wanted, margin = float(np.sum(factor * estimate.value)), MARGIN * estimate.error * float(np.linalg.norm(factor))
        return estimate, wanted, margin, max(abs(wanted), least * base, 1e-300)

    def bent(self) -> bool:
        """Whether the second derivative along v, by reverse mode, agrees with differences: third ones build on it."""
        v = self.directions["x"]
        _, wanted, margin, scale = self.expected("forward-reverse", "x")
        computed = self.problem.curvature(self.arrays, v)
        base = float(np.linalg.norm(v)) * float(np.linalg.norm(self.gradient))
        return abs(wanted - computed) <= max(RIGHT * max(scale, base), margin)

    def _first(self) -> Verdict | None:
        try:
            g = self.problem.gradient(self.arrays)
        except Exception as error:
            return self.verdict("first derivative", detail=message(error))
        slope = self.change("value", "x")
        if g is None and slope.value == 0:
            return self.verdict("undecided", detail="the result does not depend on x")
        if g is None:
            return self.verdict("first derivative", detail="None")
        if not np.isfinite(self.problem.value(self.arrays)).all():
            return self.verdict("undecided", detail="the value itself is not finite")
        if not np.isfinite(g).all():
            return self.verdict("first derivative", 1.0, detail="NaN")
        self.gradient = g
        near = [np.asarray(self.problem.gradient(arrays)) for arrays in neighbours(self.arrays, 52)]
        noise = max(float(np.linalg.norm(moved - g)) for moved in near) / max(float(np.linalg.norm(g)), 1e-300)
        self.rounding = max(self.rounding, noise if np.isfinite(noise) else 0.0)
        scale = max(float(np.linalg.norm(g)), abs(float(slope.value)), 1e-300)
        if self.undecidable(slope, MARGIN * slope.error, scale):
            return self.verdict("undecided", detail="a kink is too near")
        difference = abs(float(np.sum(g * self.directions["x"])) - float(slope.value)) / scale
        allowed = max(SINGLE if self.coarse else RIGHT, MARGIN * slope.error / scale)
        if difference > allowed:
            numbers: dict[str, float | None] = {"x": self._slope(self.arrays)}
            spread = _spread(lambda arrays: {"x": self._slope(arrays)}, self.arrays, numbers)
            if difference > spread["x"] / scale:
                return self.verdict("first derivative", difference)
        return None

    def _slope(self, arrays: Mapping[str, np.ndarray]) -> float:
        return float(np.sum(np.asarray(self.problem.gradient(arrays)) * self.directions["x"]))


def load(make: Callable[[], Problem], low: bool = False) -> Reference | Verdict:
    """The reference of a problem, or a verdict where it cannot be computed.

    Args:
        make: makes the problem in the plain mode and float64.
        low: whether the dtype under test is below float64.
    """
    try:
        return Reference(make(), low)
    except Exception as error:
        return Verdict("undecided", detail=message(error))


def judge(
    reference: Reference | Verdict,
    load_tested: Callable[[], Problem] | None = None,
    composition: str = PENALTY,
) -> Verdict:
    """The verdict on one program in float64.

    Args:
        reference: of :func:`load`.
        load_tested: makes the problem in the mode under test; None if that is the reference's.
        composition: of the modes of differentiation.
    """
    if isinstance(reference, Verdict):
        return reference
    if reference.first is not None:
        return reference.first
    try:
        tested = reference.problem if load_tested is None else load_tested()
        slopes = partial(slopes_of, tested, composition, reference.directions)
        numbers = slopes(reference.arrays)
    except Exception as error:
        return reference.verdict("raises", detail=message(error))
    if composition in THIRD and not reference.bent():
        return reference.verdict("undecided", detail="the second derivative is wrong already, or a kink is too near")
    return _compared(reference, composition, numbers, slopes)


Slopes = Callable[[Mapping[str, np.ndarray]], dict[str, float | None]]


def slopes_of(
    tested: Problem, composition: str, directions: dict[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> dict[str, float | None]:
    """The framework's derivative along the direction of each array; None where the framework returns no gradient."""
    if composition != PENALTY:
        return tested.pairings(composition, arrays, directions)
    gradients = tested.penalty_gradients(arrays)
    return {
        name: None if gradient is None else float(np.sum(gradient * directions[name]))
        for name, gradient in gradients.items()
    }


def _compared(reference: Reference, composition: str, numbers: dict[str, float | None], slopes: Slopes) -> Verdict:
    """The first array along whose direction the number is wrong, x before the others, or that all are right."""
    worst, noise = reference.verdict("right"), None
    for name, number in numbers.items():
        try:
            estimate, wanted, margin, scale = reference.expected(composition, name)
        except Exception as left:  # the arrays have left the operation's domain
            return reference.verdict("undecided", detail=message(left))
        value = 0.0 if number is None else number
        scale = max(scale, abs(value)) if np.isfinite(value) else scale
        if reference.undecidable(estimate, margin, scale):
            return reference.verdict("undecided", detail="a kink is too near")
        error = abs(value - wanted) / scale if np.isfinite(value) else np.inf
        allowed = SINGLE if reference.coarse else 100 * RIGHT if composition in THIRD else RIGHT
        if error <= max(allowed, margin / scale) or worst.kind != "right":
            continue
        if np.isfinite(error) and number is not None:
            noise = noise or _spread(slopes, reference.arrays, numbers)
            if error <= noise[name] / scale:
                continue
        kind = "None" if number is None else "wrong" if np.isfinite(error) else "NaN"
        worst = reference.verdict(kind, error if kind == "wrong" else min(error, 1.0), name)
    return worst


def _is_coarse(value: Callable[[float], float], middle: float) -> bool:
    """Whether <w, f> moves in steps of float32: then its slope over 4e-9 differs from those over 1e-6 and 3e-5."""
    near, middling, wide = ((value(t) - value(-t)) / (2 * t) for t in (4e-9, 1e-6, 3e-5))
    size = max(abs(near), abs(middling), abs(wide), 1e-4 * abs(middle), 1e-12)
    return min(abs(near - middling), abs(near - wide)) > 1e-2 * size


def neighbours(arrays: Mapping[str, np.ndarray], bits: int, times: int = 3) -> list[dict[str, np.ndarray]]:
    """Some times the arrays with each number changed in the last of some bits."""
    rng = np.random.default_rng(1)
    return [
        {name: value * (1 + 2.0**-bits * rng.choice([-1, 1], size=value.shape)) for name, value in arrays.items()}
        for _ in range(times)
    ]


def _spread(slopes: Slopes, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, float | None]) -> dict[str, float]:
    """A bound of rounding for each number, from its largest change when the arrays change in the last place."""
    largest = dict.fromkeys(numbers, 0.0)
    for near in neighbours(arrays, 52):
        moved = slopes(near)
        for name, before in numbers.items():
            after = moved[name]
            if before is not None and after is not None:
                change = max(abs(after - before), 2.0**-52 * abs(before))
                largest[name] = max(largest[name], ROUNDINGS * change)
    return largest


def message(error: Exception) -> str:
    """An error in one line, without addresses, which differ from run to run."""
    text = re.sub("0x[0-9a-f]+", "0x...", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text[:LONGEST]}"
