"""How an array of the second model follows from the first model's, where neither is explained by itself."""

from collections.abc import Iterator

import numpy as np

from gradreg_validation.explaining import simple_explanations
from gradreg_validation.forms import FORMS
from gradreg_validation.known import LARGEST, Facts, Known
from gradreg_validation.reordering import moved, reordered

__all__ = ["relation"]

_ENTRIES = 64
"""The most entries along an axis that are tried in another order."""
_VISIBLE = 50.0
"""The least ratio of a difference to the error that its explanation may have."""


def relation(first: np.ndarray, second: np.ndarray, facts: Facts, within: float) -> str:
    """A clause about the second array, such as "is the first's times 0.5"; empty if none holds.

    Args:
        first: the array in the first model.
        second: in the second, in the first's layout.
        facts: what both have computed alike.
        within: the largest relative error.
    """
    if first.shape != second.shape or first.dtype.kind != "f" or first.size > LARGEST or first.size < 4:
        return ""
    one, two = first.astype(np.float64), second.astype(np.float64)
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        return ""
    scale = float(np.linalg.norm(one) + np.linalg.norm(two)) / 2
    difference = two - one
    if np.linalg.norm(difference) < _VISIBLE * within * scale:
        return ""
    with np.errstate(all="ignore"):
        for words, array in _functions(one, two):
            if array.shape == two.shape and np.linalg.norm(array - two) <= within * scale:
                return words
    relative = within * scale / float(np.linalg.norm(difference))
    for multiples in (False, True):
        for verb, sign in (("plus", 1), ("minus", -1)):
            reasons = simple_explanations(sign * difference, facts, relative, multiples=multiples)
            if reasons:
                words = min(reasons.values(), key=lambda reason: reason.error).words
                return f"is that of the first {verb} {words}"
    if len(one) > 1 and one[0].size > 2 and np.linalg.norm(difference - difference.mean(0)) <= within * scale:
        return "is that of the first plus a term that is the same for every sample, as a bias or a position encoding is"
    return ""


def _functions(one: np.ndarray, two: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    factor = float(np.vdot(one, two) / max(float(np.vdot(one, one)), 1e-30))
    yield f"is that of the first times {factor:.4g}", factor * one
    known = Known("that of the first", one)
    for form, function in FORMS.items():
        if form != "the identity":
            yield f"is {form} of that of the first", function(one)
            if np.linalg.norm(function(two) - one) <= 1e-5 * np.linalg.norm(one):
                yield f"is that of the first without the {form}", two
    for words, array in (*moved(known), *reordered(known, two.shape)):
        yield f"is {words}", array
    for axis in dict.fromkeys((one.ndim - 1, 1) if one.ndim > 1 else ()):
        if (order := _order(one, two, axis)) is not None:
            yield f"is that of the first with axis {axis} in the order {order}", np.take(one, order, axis)
    if one.ndim == 2 and one.shape[0] == one.shape[1]:
        yield "is that of the first transposed", one.T
    if len(one) > 2 and one.ndim > 1:
        for axis in dict.fromkeys((1, one.ndim - 1)):
            channels = tuple(i for i in range(one.ndim) if i != axis)
            ratios = (one * two).sum(channels, keepdims=True) / (one**2).sum(channels, keepdims=True)
            yield f"is that of the first times one factor for each entry of axis {axis}", ratios * one


def _order(one: np.ndarray, two: np.ndarray, axis: int) -> tuple[int, ...] | None:
    """The permutation along an axis under which the entries are closest; None if they do not pair off."""
    if one.shape != two.shape or not 1 < one.shape[axis] <= _ENTRIES:
        return None
    first, second = (np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in (one, two))
    order = tuple(int(np.argmin(np.linalg.norm(first - entry, axis=1))) for entry in second)
    return order if sorted(order) == list(range(len(order))) != list(order) else None
