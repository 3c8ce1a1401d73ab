"""Whether second derivatives in float32 or bfloat16 are off by more than rounding explains.

The data are numbers of 8 bits, so the same program computes the same function in float64, where differences say what
the number should be. It is wrong if it has less than half of the digits of its dtype, relative to the number or to the
product of norms that it would have with a Hessian as large as the gradient, and by more than rounding does: a rounding
of the data is tried, in the dtype and in float64. An error that rounding may explain leaves the point undecided.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from gradreg_sweep.precision import LOW
from gradreg_sweep.problem import Problem
from gradreg_sweep.verdict import SILENT, UNTRIED, Reference, Slopes, Verdict, message, neighbours, slopes_of

__all__ = ["judge_low"]

ROUNDINGS = 16.0
"""On the largest change of six when the data change by a rounding: independent errors add like the root of their
number, and attention with its derivatives has 256 operations."""
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
    half = LOW[dtype] ** 0.5
    if values.shape != exact.shape or not np.max(np.abs(values - exact), initial=0.0) <= half:
        lost = None if np.isfinite(values).all() else _first(tested, reference, half)
        return lost or reference.verdict("undecided", detail="its value is off already")
    slopes = partial(slopes_of, tested, composition, reference.directions)
    try:
        numbers = slopes(reference.arrays)
    except Exception as error:
        return _first(tested, reference, half) or reference.verdict("raises", detail=message(error))
    verdict = _compared(reference, composition, numbers, slopes, dtype)
    return (verdict.kind in SILENT and _first(tested, reference, half)) or verdict


def _first(tested: Problem, reference: Reference, half: float) -> Verdict | None:
    """A verdict if the first derivative is off already, which is undecided if a tie after rounding may be the cause."""
    try:
        gradient = tested.gradient(reference.arrays)
    except Exception as error:
        return reference.verdict("first derivative", detail=message(error))
    if gradient is None:
        return reference.verdict("first derivative", detail="None")
    if not np.isfinite(gradient).all():
        return reference.verdict("first derivative", 1.0, detail="NaN")
    size = max(float(np.linalg.norm(reference.gradient)), 1e-300)
    off = float(np.linalg.norm(gradient - reference.gradient)) / size
    if off <= half:
        return None
    if off <= 1 / half:
        return reference.verdict("undecided", detail="its first derivative is off already")
    return reference.verdict("first derivative", off)


def _bits(dtype: str) -> int:
    return round(-np.log2(LOW[dtype])) - 1


def _compared(
    reference: Reference, composition: str, numbers: Mapping[str, float | None], slopes: Slopes, dtype: str
) -> Verdict:
    """The first array along whose direction the number is wrong, x before the others, or that all are right."""
    half, noise = LOW[dtype] ** 0.5, None
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
        if error <= max(half, margin / scale) or worst.kind not in ("right", "undecided"):
            continue
        noise = noise or _noise(reference, composition, numbers, slopes, dtype)
        if not abs(value - wanted) > noise[name] or not np.isfinite(noise[name]):
            worst = reference.verdict("undecided", detail="rounding takes its digits")
            continue
        kind = "None" if number is None else "wrong" if np.isfinite(value) else "NaN"
        worst = reference.verdict(kind, error if kind == "wrong" else min(error, 1.0), name)
    return worst


def _noise(
    reference: Reference, composition: str, numbers: Mapping[str, float | None], slopes: Slopes, dtype: str
) -> dict[str, float]:
    """What rounding may do to each number."""
    exact: Slopes = partial(slopes_of, reference.problem, composition, reference.directions)
    near = neighbours(reference.arrays, _bits(dtype), NEIGHBOURS)
    largest = dict.fromkeys(numbers, 0.0)
    for compute in (slopes, exact):
        try:
            before, after = compute(reference.arrays), [compute(arrays) for arrays in near]
        except Exception:  # noqa: S112 - float64 has no such derivative
            continue
        for name, one in before.items():
            changes = [abs((moved[name] or 0.0) - (one or 0.0)) for moved in after]
            largest[name] = max(largest[name], *(ROUNDINGS * change for change in changes if np.isfinite(change)), 0.0)
    return largest
