"""Whether a framework's second derivatives are right at one point, against differences of its first derivatives.

With w fixed, g(x, A, ...) = J^T w is the gradient of <w, f> with respect to x, and dg/dt its derivative along a
direction u of x, A, ..., by differences in float64. The framework's gradient of Q = ||g||^2 along u must equal
2 <g, dg/dt>; every composition of forward and reverse mode that gives the mixed derivative along v and u must equal
<v, dg/dt>. The third derivative along v, v and u must equal the derivative of the second one, by reverse mode twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from gradreg_sweep.compositions import FORWARD, PENALTY, THIRD
from gradreg_sweep.differences import Estimate, derivative
from gradreg_sweep.problem import Problem

__all__ = ["KINDS", "Verdict", "judge"]

KINDS = {
    "right": "agrees with differences",
    "wrong": "the second derivative is wrong, and no error says so",
    "None": "a part of the second derivative is None, and no error says so",
    "NaN": "the second derivative is NaN or infinite",
    "raises": "there is no second derivative, and an error says so",
    "first derivative": "the first derivative is already wrong or missing",
    "undecided": "differences do not converge at any point that was tried",
}
"""Kind -> what it means."""

RIGHT = 1e-7
"""Relative. Rounding in float64 leaves 1e-12 or so, ill-conditioned linear algebra 1e-9."""
DECIDED = 1e-3
"""The point is rejected if ten times the differences' own error is relatively larger than this."""
MARGIN = 10.0
"""On the differences' estimate of their own error, which is not a bound."""
SINGLE = 3e-3
"""Relative, for an operation that computes in float32 inside: its differences are no better than that."""
ROUNDINGS = 8.0
"""On the change of a result in single precision when the arrays are perturbed in the last place."""


@dataclass(frozen=True)
class Verdict:
    """The result at one point.

    Args:
        kind: one of KINDS.
        error: relative, if numbers disagree.
        array: the name of the array whose gradient it is about.
        detail: the error raised, or another remark.
        single: whether the operation computes in float32, though its arrays are float64.
    """

    kind: str
    error: float = 0.0
    array: str = "x"
    detail: str = ""
    single: bool = False


@dataclass(frozen=True)
class _Point:
    """Where a problem is judged, in the plain mode and float64, and the direction of each array."""

    problem: Problem
    arrays: dict[str, np.ndarray]
    directions: dict[str, np.ndarray]
    coarse: bool
    """Whether the operation computes in float32 inside."""

    @property
    def rounding(self) -> float:
        """The relative error of a value."""
        return 2.0**-23 if self.coarse else 2.0**-52

    def moved(self, name: str, t: float) -> dict[str, np.ndarray]:
        """The arrays, with one of them moved by t along its direction."""
        return self.arrays | {name: self.arrays[name] + t * self.directions[name]}

    def undecidable(self, estimate: Estimate, margin: float, scale: float) -> bool:
        """Whether differences mean nothing here: a kink is near, or they do not converge."""
        return estimate.kinked or not margin <= (10 if self.coarse else 1) * DECIDED * scale

    def verdict(self, kind: str, error: float = 0.0, array: str = "x", detail: str = "") -> Verdict:
        """A verdict on the problem."""
        return Verdict(kind, error, array, detail, self.coarse)


def judge(
    load_reference: Callable[[], Problem],
    load_tested: Callable[[], Problem] | None,
    single: bool,
    composition: str = PENALTY,
) -> Verdict:
    """The verdict on one program.

    Args:
        load_reference: makes the problem in the plain mode and float64.
        load_tested: makes it in the mode and dtype under test; None if those are the reference's.
        single: whether the dtype under test is float32.
        composition: of the modes of differentiation.
    """
    try:
        point = _point(load_reference(), single)
    except Exception as error:
        return Verdict("undecided", detail=_message(error))
    first = _first(point)
    if first is not None:
        return first
    g = np.asarray(point.problem.gradient(point.arrays), np.float64)
    try:
        tested = point.problem if load_tested is None else load_tested()
        if composition != PENALTY:
            return _mixed(point, composition, tested.pairings(composition, point.arrays, point.directions))
        gradients = tested.penalty_gradients(point.arrays)
        spread = _spread(tested, point, gradients) if single else {}
    except Exception as error:
        return point.verdict("raises", detail=_message(error))
    return _second(point, g, gradients, spread)


def _point(problem: Problem, single: bool) -> _Point:
    arrays = dict(problem.arrays)
    if single:
        arrays = {name: value.astype(np.float32).astype(np.float64) for name, value in arrays.items()}
    rng = np.random.default_rng(0)
    directions = {name: rng.normal(size=value.shape) for name, value in arrays.items()}
    point = _Point(problem, arrays, directions, coarse=False)
    middle = problem.value(arrays)
    return replace(point, coarse=_is_coarse(lambda t: problem.value(point.moved("x", t)), middle))


def _first(point: _Point) -> Verdict | None:
    """A verdict if the first derivative is wrong, or cannot be judged."""
    try:
        g = point.problem.gradient(point.arrays)
    except Exception as error:
        return point.verdict("first derivative", detail=_message(error))
    slope = derivative(lambda t: np.asarray(point.problem.value(point.moved("x", t))), point.rounding)
    if g is None and slope.value == 0:
        return point.verdict("undecided", detail="the result does not depend on x")
    if g is None:
        return point.verdict("first derivative", detail="None")
    if not np.isfinite(g).all():
        return point.verdict("first derivative", 1.0, detail="NaN")
    scale = max(float(np.linalg.norm(g)), abs(float(slope.value)), 1e-300)
    if point.undecidable(slope, MARGIN * slope.error, scale):
        return point.verdict("undecided", detail="a kink is too near")
    difference = abs(float(np.sum(g * point.directions["x"])) - float(slope.value)) / scale
    if difference > max(SINGLE if point.coarse else RIGHT, MARGIN * slope.error / scale):
        return point.verdict("first derivative", difference)
    return None


def _second(point: _Point, g: np.ndarray, gradients: dict[str, np.ndarray | None], spread: dict[str, float]) -> Verdict:
    """The first array whose gradient along its direction is wrong, x before the others, or that all are right."""
    worst = point.verdict("right")
    for name, gradient in gradients.items():
        change = derivative(partial(_gradient_at, point, name), point.rounding)
        wanted = 2 * float(np.sum(g * change.value))
        margin = MARGIN * 2 * float(np.linalg.norm(g)) * change.error
        slope = 0.0 if gradient is None else float(np.sum(gradient * point.directions[name]))
        scale = max(abs(wanted), abs(slope), 1e-3 * float(np.sum(g * g)), 1e-300)
        scale = scale if np.isfinite(scale) else max(abs(wanted), 1e-300)
        if point.undecidable(change, margin, scale):
            return point.verdict("undecided", detail="a kink is too near")
        allowed = max(SINGLE if point.coarse else RIGHT, margin / scale, spread.get(name, 0.0) / scale)
        error = abs(slope - wanted) / scale if np.isfinite(slope) else np.inf
        if error <= allowed:
            continue
        kind = "None" if gradient is None else "wrong" if np.isfinite(error) else "NaN"
        if worst.kind == "right":
            worst = point.verdict(kind, error if kind == "wrong" else min(error, 1.0), name)
    return worst


def _mixed(point: _Point, composition: str, numbers: dict[str, float | None]) -> Verdict:
    """The first mixed derivative that is wrong, or that all are right."""
    v = point.directions["x"]
    worst, base = point.verdict("right"), float(np.linalg.norm(v))
    base *= float(np.linalg.norm(np.asarray(point.problem.gradient(point.arrays))))
    along = partial(_gradient_at, point, "x")
    if composition == THIRD:
        second = derivative(along, point.rounding)
        wanted, computed = float(np.sum(v * second.value)), point.problem.curvature(point.arrays, v)
        allowed = max(RIGHT * max(abs(wanted), base), MARGIN * second.error * float(np.linalg.norm(v)))
        if not abs(wanted - computed) <= allowed:
            return point.verdict("undecided", detail="the second derivative is wrong already, or a kink is too near")
    for name, number in numbers.items():
        change, factor = _differences(point, composition, name)
        wanted, margin = float(np.sum(factor * change.value)), MARGIN * change.error * float(np.linalg.norm(factor))
        scale = max(abs(wanted), 1e-3 * base, 1e-300)
        if point.undecidable(change, margin, scale):
            return point.verdict("undecided", detail="a kink is too near")
        value = 0.0 if number is None else number
        error = abs(value - wanted) / max(scale, abs(value)) if np.isfinite(value) else np.inf
        allowed = max(SINGLE if point.coarse else 100 * RIGHT if composition == THIRD else RIGHT, margin / scale)
        if error > allowed and worst.kind == "right":
            kind = "None" if number is None else "wrong" if np.isfinite(error) else "NaN"
            worst = point.verdict(kind, error if kind == "wrong" else min(error, 1.0), name)
    return worst


def _differences(point: _Point, composition: str, name: str) -> tuple[Estimate, np.ndarray]:
    """The change, along the direction of an array, of what is one derivative lower, and what to multiply it with."""
    if composition == THIRD:
        return derivative(partial(_curvature_at, point, name), point.rounding), np.ones(())
    if composition == FORWARD:
        return derivative(lambda t: np.asarray(point.problem.value(point.moved(name, t))), point.rounding), np.ones(())
    return derivative(partial(_gradient_at, point, name), point.rounding), point.directions["x"]


def _curvature_at(point: _Point, name: str, t: float) -> np.ndarray:
    return np.asarray(point.problem.curvature(point.moved(name, t), point.directions["x"]))


def _gradient_at(point: _Point, name: str, t: float) -> np.ndarray:
    return np.asarray(point.problem.gradient(point.moved(name, t)))


def _is_coarse(value: Callable[[float], float], middle: float) -> bool:
    """Whether <w, f> moves in steps of float32: then its slope over 4e-9 differs from those over 1e-6 and 3e-5."""
    near, middling, wide = ((value(t) - value(-t)) / (2 * t) for t in (4e-9, 1e-6, 3e-5))
    size = max(abs(near), abs(middling), abs(wide), 1e-4 * abs(middle), 1e-12)
    return min(abs(near - middling), abs(near - wide)) > 1e-2 * size


def _spread(tested: Problem, point: _Point, gradients: dict[str, np.ndarray | None]) -> dict[str, float]:
    """What rounding in float32 may do to each slope: its largest change under perturbations in the last place."""
    rng = np.random.default_rng(1)
    largest = dict.fromkeys(point.arrays, 0.0)
    for _ in range(3):
        near = {
            name: value * (1 + 2.0**-23 * rng.choice([-1, 1], size=value.shape)) for name, value in point.arrays.items()
        }
        moved = tested.penalty_gradients(near)
        for name, before in gradients.items():
            after = moved[name]
            if before is not None and after is not None:
                change = max(np.linalg.norm(after - before), 2.0**-23 * np.linalg.norm(before))
                length = float(np.linalg.norm(point.directions[name]))
                largest[name] = max(largest[name], ROUNDINGS * float(change) * length)
    return largest


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
