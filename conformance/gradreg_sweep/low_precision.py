"""Verdicts on second derivatives in float32 and bfloat16: are they off by more than rounding explains?

The data are numbers of 8 bits, so the same program computes the same function in float64, where differences say what
the number should be. It is wrong if it has less than half of the digits of its dtype, relative to the number or to the
product of norms that it would have with a Hessian as large as the gradient, and by more than rounding does: a rounding
of the data is tried, in the dtype and in float64. An error that rounding may explain leaves the point undecided.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from gradreg_sweep.precision import LOW
from gradreg_sweep.problem import Problem
from gradreg_sweep.verdict import SILENT, UNTRIED, Reference, Slopes, Verdict, message, neighbours, slopes_of

__all__ = ["judge_low"]

ROUNDINGS = 4.0
"""On the largest of six changes when the data change by a rounding.

Each of the seven results has rounding errors of its own, so one that is off by chance changes by about as much. An
error that all seven share, as of a rounded constant, does not show in the changes. Of 1400 right numbers of PyTorch's
operations in bfloat16, none was off by more than 1.5 changes; of 1650 in float32, none by more than 1.5 if the error
was above 5e-7. Numbers wrong in float64 too were off by 12 to 14 changes in bfloat16, and by 6000 or more in float32.
"""
NEIGHBOURS = 6


def judge_low(
    reference: Reference | Verdict, load_tested: Callable[[], Problem], dtype: str, composition: str
) -> Verdict:
    """The verdict on one program in a dtype below float64.

    Args:
        reference: of the same program in float64.
        load_tested: makes the problem in the mode and dtype under test.
        dtype: one of :data:`~gradreg_sweep.precision.LOW`.
        composition: of the modes of differentiation.
    """
    if isinstance(reference, Verdict):
        return reference
    if reference.first is not None:
        undecided = reference.first.kind == "undecided"
        why = reference.first.detail if undecided else "the first derivative is wrong or missing in float64"
        return reference.verdict("undecided", detail=why)
    try:
        tested = load_tested()
        values, made = tested.output(reference.arrays)
    except Exception:
        return reference.verdict(UNTRIED, detail="its value cannot be computed there")
    if made == "float64":
        return reference.verdict(UNTRIED, detail="its program computes in float64")
    exact, _ = reference.problem.output(reference.arrays)
    if values.shape != exact.shape:
        return reference.verdict("undecided", detail="its value has another shape there")
    return _value(tested, reference, values, exact, dtype) or _second(tested, reference, composition, dtype)


def _value(tested: Problem, reference: Reference, values: np.ndarray, exact: np.ndarray, dtype: str) -> Verdict | None:
    """A verdict if the value is already off by more than rounding explains."""
    if float(np.max(np.abs(values - exact), initial=0.0)) <= _half(dtype):
        return None
    if not np.isfinite(values).all():
        lost = _first(tested, reference, dtype)
        return lost or reference.verdict("undecided", detail="its value is not finite there")

    def compute(problem: Problem) -> Callable[[Mapping[str, np.ndarray]], np.ndarray]:
        return lambda arrays: problem.output(arrays)[0]

    noise = _noise(reference, compute(tested), compute(reference.problem), dtype)
    if float(np.linalg.norm(values - exact)) <= noise:
        return None
    return reference.verdict("undecided", detail="its value is off by more than rounding explains")


def _second(tested: Problem, reference: Reference, composition: str, dtype: str) -> Verdict:
    slopes = partial(slopes_of, tested, composition, reference.directions)
    try:
        numbers = slopes(reference.arrays)
    except Exception as error:
        return _first(tested, reference, dtype) or reference.verdict("raises", detail=message(error))
    verdict = _compared(reference, composition, numbers, slopes, dtype)
    return (verdict.kind in SILENT and _first(tested, reference, dtype)) or verdict


def _first(tested: Problem, reference: Reference, dtype: str) -> Verdict | None:
    """A verdict if the first derivative is already off: undecided if rounding or a tie may explain it."""
    try:
        gradient = tested.gradient(reference.arrays)
    except Exception as error:
        return reference.verdict("first derivative", detail=message(error))
    if gradient is None:
        return reference.verdict("first derivative", detail="None")
    if not np.isfinite(gradient).all():
        return _lost(reference, tested.gradient, dtype) or reference.verdict("first derivative", 1.0, detail="NaN")
    size = max(float(np.linalg.norm(reference.gradient)), 1e-300)
    off = float(np.linalg.norm(gradient - reference.gradient))
    if off <= _half(dtype) * size:
        return None
    if off * _half(dtype) > size and off > _noise(reference, tested.gradient, reference.problem.gradient, dtype):
        return reference.verdict("first derivative", off / size)
    return reference.verdict("undecided", detail="its first derivative is off already")


def _half(dtype: str) -> float:
    """The relative error that leaves half of the digits."""
    return float(LOW[dtype] ** 0.5)


def _compared(
    reference: Reference, composition: str, numbers: Mapping[str, float | None], slopes: Slopes, dtype: str
) -> Verdict:
    """The first array along whose direction the number is wrong, x before the others, or that all are right."""
    exact: Slopes = partial(slopes_of, reference.problem, composition, reference.directions)
    worst = reference.verdict("right")
    for name, number in numbers.items():
        try:
            estimate, wanted, margin, scale = reference.expected(composition, name, 1.0)
        except Exception as left:  # the arrays have left the operation's domain
            return reference.verdict("undecided", detail=message(left))
        if reference.undecidable(estimate, margin, scale):
            return reference.verdict("undecided", detail="a kink is too near")
        value = 0.0 if number is None else number
        error = abs(value - wanted) / max(scale, abs(value)) if np.isfinite(value) else np.inf
        if error <= max(_half(dtype), margin / scale) or worst.kind not in ("right", "undecided"):
            continue
        low, high = (lambda arrays, of=of, name=name: of(arrays)[name] or 0.0 for of in (slopes, exact))
        if not np.isfinite(value) and (lost := _lost(reference, low, dtype)):
            return lost
        if abs(value - wanted) <= _noise(reference, low, high, dtype):
            worst = reference.verdict("undecided", detail="rounding takes its digits")
            continue
        kind = "None" if number is None else "wrong" if np.isfinite(value) else "NaN"
        worst = reference.verdict(kind, error if kind == "wrong" else min(error, 1.0), name)
    return worst


def _near(reference: Reference, dtype: str) -> list[dict[str, np.ndarray]]:
    """Some copies of the arrays, each changed by a rounding."""
    return neighbours(reference.arrays, round(-np.log2(LOW[dtype])) - 1, NEIGHBOURS)


def _lost(reference: Reference, tested: Callable[..., Any], dtype: str) -> Verdict | None:
    """A verdict if some rounding of the data makes the result finite: a singular point was reached by chance."""
    if any(np.isfinite(tested(arrays)).all() for arrays in _near(reference, dtype)):
        return reference.verdict("undecided", detail="rounding reaches a point without a derivative")
    return None


def _noise(reference: Reference, tested: Callable[..., Any], exact: Callable[..., Any], dtype: str) -> float:
    """The largest error of a number, or norm of the error of an array, that rounding explains.

    Args:
        reference: whose arrays are changed by a rounding.
        tested: the number or array in the dtype.
        exact: the same in float64.
        dtype: one of :data:`~gradreg_sweep.precision.LOW`.
    """
    near, largest = _near(reference, dtype), 0.0
    for compute in (tested, exact):
        try:
            before, after = compute(reference.arrays), [compute(arrays) for arrays in near]
        except Exception:  # noqa: S112 - float64 has no such derivative
            continue
        changes = [float(np.linalg.norm(np.asarray(moved) - np.asarray(before))) for moved in after]
        largest = max(largest, *(ROUNDINGS * change for change in changes if np.isfinite(change)), 0.0)
    return largest
