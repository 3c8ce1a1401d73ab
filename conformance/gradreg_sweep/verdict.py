"""Whether a framework's second derivatives are right at one point, against differences of its first derivatives.

With w fixed, g(x, A, ...) = J^T w is the gradient of <w, f> with respect to x, and Q = ||g||^2. The framework's
gradient of Q along a direction v must equal 2 <g, dg/dt> with dg/dt the derivative of g along v, by differences in
float64.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gradreg_sweep.differences import derivative

__all__ = ["KINDS", "Problem", "Verdict", "judge"]

KINDS = {
    "right": "agrees with differences",
    "wrong": "the second derivative is wrong, without a word",
    "None": "a part of the second derivative is None, without a word",
    "NaN": "the second derivative is NaN or infinite",
    "raises": "there is no second derivative, and an error says so",
    "first derivative": "the first derivative is already wrong or missing",
    "undecided": "differences do not converge at any point that was tried",
}
"""What can be said of an operation."""

RIGHT = 1e-7
"""Relative. Rounding in float64 leaves 1e-12 or so, ill-conditioned linear algebra 1e-9."""
DECIDED = 1e-3
"""Where the differences' own error, times ten, is relatively larger than this, the point is rejected."""
MARGIN = 10.0
"""On the differences' estimate of their own error, which is no bound."""
SINGLE = 3e-3
"""Relative, for an operation that computes in float32 inside: its differences are no better than that."""
ROUNDINGS = 8.0
"""On the change of a result in single precision when the arrays are perturbed in the last place."""


class Problem(Protocol):
    """A program in a framework, as functions of its arrays by name (NumPy, x first)."""

    arrays: Mapping[str, np.ndarray]
    """The point: x, A, the operation's own arrays and its layer's variables."""

    def value(self, arrays: Mapping[str, np.ndarray]) -> float:
        """<w, f>."""
        ...

    def gradient(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """The gradient g = J^T w, of the shape of x; None where the framework gives none."""
        ...

    def penalty_gradients(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
        """The gradient of Q with respect to each array."""
        ...


@dataclass(frozen=True)
class Verdict:
    """What was found at one point.

    Args:
        kind: one of KINDS.
        error: relative, where numbers disagree.
        array: the name of the array with respect to which.
        detail: the error raised, or what else there is to say.
        single: whether the operation computes in float32, though its arrays are float64.
    """

    kind: str
    error: float = 0.0
    array: str = "x"
    detail: str = ""
    single: bool = False


def judge(load_reference: Callable[[], Problem], load_tested: Callable[[], Problem] | None, single: bool) -> Verdict:
    """The verdict on one program.

    Args:
        load_reference: makes the problem in the plain mode and float64.
        load_tested: makes it in the mode and dtype under test; None if those are the reference's.
        single: whether the dtype under test is float32.
    """
    try:
        reference = load_reference()
        point = dict(reference.arrays)
        if single:
            point = {name: value.astype(np.float32).astype(np.float64) for name, value in point.items()}
        rng = np.random.default_rng(0)
        directions = {name: rng.normal(size=value.shape) for name, value in point.items()}
        value = reference.value(point)
    except Exception as error:
        return Verdict("undecided", detail=_message(error))
    grainy = _grainy(lambda t: reference.value(_moved(point, "x", directions, t)), value)
    first = _first(reference, point, directions, grainy)
    if first is not None:
        return first
    g = np.asarray(reference.gradient(point), np.float64)
    try:
        tested = reference if load_tested is None else load_tested()
        found = tested.penalty_gradients(point)
        spread = _spread(tested, point, directions, found) if single else {}
    except Exception as error:
        return Verdict("raises", detail=_message(error), single=grainy)
    return _second(reference, point, directions, g, found, spread, grainy)


def _first(
    reference: Problem, point: dict[str, np.ndarray], directions: dict[str, np.ndarray], grainy: bool
) -> Verdict | None:
    """A verdict if the first derivative is wrong, or cannot be judged."""
    try:
        g = reference.gradient(point)
    except Exception as error:
        return Verdict("first derivative", detail=_message(error), single=grainy)
    if g is None:
        return Verdict("first derivative", detail="None", single=grainy)
    if not np.isfinite(g).all():
        return Verdict("first derivative", 1.0, detail="NaN", single=grainy)
    slope = derivative(lambda t: np.asarray(reference.value(_moved(point, "x", directions, t))), _rounding(grainy))
    scale = max(float(np.linalg.norm(g)), abs(float(slope.value)), 1e-300)
    if slope.kinked or not MARGIN * slope.error <= (10 if grainy else 1) * DECIDED * scale:
        return Verdict("undecided", detail="a kink is too near", single=grainy)
    error = abs(float(np.sum(g * directions["x"])) - float(slope.value)) / scale
    if error > max(SINGLE if grainy else RIGHT, MARGIN * slope.error / scale):
        return Verdict("first derivative", error, single=grainy)
    return None


def _second(
    reference: Problem,
    point: dict[str, np.ndarray],
    directions: dict[str, np.ndarray],
    g: np.ndarray,
    found: dict[str, np.ndarray | None],
    spread: dict[str, float],
    grainy: bool,
) -> Verdict:
    """The worst over the arrays, each along one direction."""
    worst = Verdict("right", single=grainy)
    for name in found:
        change = derivative(
            lambda t, name=name: np.asarray(reference.gradient(_moved(point, name, directions, t))), _rounding(grainy)
        )
        wanted = 2 * float(np.sum(g * change.value))
        margin = MARGIN * 2 * float(np.linalg.norm(g)) * change.error
        array = found[name]
        slope = 0.0 if array is None else float(np.sum(array * directions[name]))
        scale = max(abs(wanted), abs(slope), 1e-3 * float(np.sum(g * g)), 1e-300)
        scale = scale if np.isfinite(scale) else max(abs(wanted), 1e-300)
        if change.kinked or not margin <= (10 if grainy else 1) * DECIDED * scale:
            return Verdict("undecided", detail="a kink is too near", single=grainy)
        allowed = max(SINGLE if grainy else RIGHT, margin / scale, spread.get(name, 0.0) / scale)
        error = abs(slope - wanted) / scale if np.isfinite(slope) else np.inf
        if array is None and error > allowed:
            kind = "None"
        elif not np.isfinite(error):
            kind = "NaN"
        elif error > allowed:
            kind = "wrong"
        else:
            continue
        if worst.kind == "right":  # x comes first, and says it best
            worst = Verdict(kind, min(error, 1.0) if kind != "wrong" else error, name, single=grainy)
    return worst


def _rounding(grainy: bool) -> float:
    return 2.0**-23 if grainy else 2.0**-52


def _moved(
    point: dict[str, np.ndarray], name: str, directions: dict[str, np.ndarray], t: float
) -> dict[str, np.ndarray]:
    return point | {name: point[name] + t * directions[name]}


def _grainy(value: Callable[[float], float], middle: float) -> bool:
    """Whether <w, f> moves in steps of float32: then its slope over 4e-9 is another than over 1e-6 and 3e-5."""
    near, middling, wide = ((value(t) - value(-t)) / (2 * t) for t in (4e-9, 1e-6, 3e-5))
    size = max(abs(near), abs(middling), abs(wide), 1e-4 * abs(middle), 1e-12)
    return min(abs(near - middling), abs(near - wide)) > 1e-2 * size


def _spread(
    tested: Problem,
    point: dict[str, np.ndarray],
    directions: dict[str, np.ndarray],
    found: dict[str, np.ndarray | None],
) -> dict[str, float]:
    """What rounding in float32 may do to each slope: its largest change under perturbations in the last place."""
    rng = np.random.default_rng(1)
    largest = dict.fromkeys(point, 0.0)
    for _ in range(3):
        near = {name: value * (1 + 2.0**-23 * rng.choice([-1, 1], size=value.shape)) for name, value in point.items()}
        moved = tested.penalty_gradients(near)
        for name in found:
            before, after = found[name], moved[name]
            if before is not None and after is not None:
                change = float(np.linalg.norm(after - before)) * float(np.linalg.norm(directions[name]))
                floor = 2.0**-23 * float(np.linalg.norm(before)) * float(np.linalg.norm(directions[name]))
                largest[name] = max(largest[name], ROUNDINGS * max(change, floor))
    return largest


def _message(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
