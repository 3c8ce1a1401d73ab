"""Explanations of an array between two layers: plain functions of earlier activations that give it.

Both models are searched alike. Where each has an explanation and they are not the same, the difference has a name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gradreg_validation.arrays import relative
from gradreg_validation.attending import attentions
from gradreg_validation.combining import graphs, together
from gradreg_validation.forms import FORMS
from gradreg_validation.known import LARGEST, Candidates, Facts, Known, derived
from gradreg_validation.normalising import denormalised, normalised
from gradreg_validation.reducing import reduced
from gradreg_validation.reordering import moved, padded, reordered
from gradreg_validation.resizing import resizes
from gradreg_validation.routing import mixtures

__all__ = ["Explanation", "explanations", "simple_explanations"]

_BUDGET = 1e8
"""Elements of all arrays that one kind of search may compare."""
_OVERHEAD = 2000
"""The fixed cost of a comparison, in elements."""


@dataclass(frozen=True)
class Explanation:
    """A function of known arrays that gives the array."""

    words: str
    error: float


_Search = Callable[[np.ndarray, Facts], Candidates]


def explanations(target: np.ndarray, facts: Facts, within: float) -> dict[str, Explanation]:
    """All functions of the known arrays that give the target up to a relative error of `within`, by their words.

    They are all of the plainest kind that has some.

    Args:
        target: the array to explain.
        facts: what is known.
        within: the largest relative error.
    """
    searches = (
        *(_the_same, _alone, _scaled, _with_a_constant, together, graphs, denormalised, mixtures),
        *(reduced, _attended, _turned),
    )
    return _first(target, facts, within, searches)


def simple_explanations(
    target: np.ndarray,
    facts: Facts,
    within: float,
    through: Callable[[np.ndarray], np.ndarray | None] | None = None,
    multiples: bool = True,
) -> dict[str, Explanation]:
    """Those of one known array alone; with `through`, those that give the target through that function."""
    if through is None:
        return _first(target, facts, within, (_the_same, _alone, _scaled) if multiples else (_the_same, _alone))
    shapes = {one.array.shape for one in facts.all()}

    def composed(target: np.ndarray, facts: Facts) -> Candidates:
        for shape in shapes:
            for words, array in _alone(np.empty(shape), facts):
                y = through(array)
                if y is not None:
                    yield words, y

    return _first(target, facts, within, (composed,))


def _first(target: np.ndarray, facts: Facts, within: float, searches: tuple[_Search, ...]) -> dict[str, Explanation]:
    if target.size > LARGEST or target.dtype.kind != "f" or not np.isfinite(target).all():
        return {}
    matches: dict[str, Explanation] = {}
    target = target.astype(np.float64)
    bound = float(within * np.linalg.norm(target)) ** 2
    with np.errstate(all="ignore"):
        for search in searches:
            compared = 0
            for words, array in search(target, facts):
                compared += array.size + _OVERHEAD
                if array.shape == target.shape and words not in matches:
                    difference = np.ravel(array - target)
                    if np.dot(difference, difference) <= bound:
                        matches[words] = Explanation(words, relative(array, target))
                if compared > _BUDGET:
                    break
            if matches:
                break
    return matches


def _the_same(target: np.ndarray, facts: Facts) -> Candidates:
    for one in facts.all():
        yield one.label, one.array


def _alone(target: np.ndarray, facts: Facts) -> Candidates:
    """A form of one array, normalised, resized, padded, or in another order."""
    for one in facts.near():
        array = one.array.astype(np.float64)
        if array.shape == target.shape:
            for form, function in FORMS.items():
                yield (one.label if form == "the identity" else f"{form} of {one.label}"), function(array)
            yield from normalised(Known(one.label, array))
            yield from moved(one)
            for mask in facts.masks:
                if mask.array.shape == array.shape[: mask.array.ndim]:
                    kept = mask.array.reshape(*mask.array.shape, *([1] * (array.ndim - mask.array.ndim)))
                    yield f"{one.label} where {mask.label} is 1", array * kept
                    yield f"{one.label} where {mask.label} is 0", array * (1 - kept)
    for one in derived(facts.near(), list(FORMS)):
        if one.array.size == target.size:
            yield from reordered(one, target.shape)
    for one in derived(facts.near()):
        if one.array.ndim == target.ndim > 2 and one.array.shape != target.shape:
            for words, array in resizes(one.array, target.shape):
                yield f"{one.label} {words}", array
            yield from padded(one, target.shape)


def _scaled(target: np.ndarray, facts: Facts) -> Candidates:
    """A multiple of one array, or one with entries dropped at random."""
    dropouts: list[tuple[float, str, np.ndarray]] = []
    for one in derived(facts.near()):
        if one.array.shape != target.shape or not np.any(one.array):
            continue
        factor = float(np.vdot(one.array, target) / np.vdot(one.array, one.array))
        yield f"{one.label} times {factor:.4g}", factor * one.array
        dropped = (target == 0) & (one.array != 0)
        if dropped.any() and not dropped.all():
            left = ~dropped
            factor = float(np.vdot(one.array[left], target[left]) / np.vdot(one.array[left], one.array[left]))
            share = dropped.mean() / np.mean(one.array != 0)
            if 0.5 < factor * (1 - share) < 2 and factor > 1.01:
                words = f"{one.label} with {share:.0%} dropped, as dropout does in training"
                y = factor * left * one.array
                if relative(y, target) < 1e-5:
                    dropouts.append((abs(np.log(factor * (1 - share))), words, y))
    for _, words, array in sorted(dropouts, key=lambda item: item[0])[:1]:
        yield words, array


def _with_a_constant(target: np.ndarray, facts: Facts) -> Candidates:
    """A multiple of one array plus a term that is the same for every sample, such as a position encoding."""
    if len(target) < 2 or target[0].size < 3:
        return
    for one in facts.near():
        if one.array.shape == target.shape:
            x, y = (array - array.mean(0) for array in (one.array.astype(np.float64), target))
            if np.vdot(x, x) > 0:
                factor = float(np.vdot(x, y) / np.vdot(x, x))
                times = "" if abs(factor - 1) < 1e-5 else f" times {factor:.4g}"
                words = f"{one.label}{times} plus a term that is the same for every sample"
                yield words, factor * one.array + (target - factor * one.array).mean(0)


def _attended(target: np.ndarray, facts: Facts) -> Candidates:
    """Softmax attention over three arrays, or over the thirds of one."""
    yield from attentions(target, _named(facts.near()), _named(facts.masks))


def _turned(target: np.ndarray, facts: Facts) -> Candidates:
    """The same with rotary positions, or with a bias of the scores."""
    constants = _named(facts.constants)
    yield from attentions(target, _named(facts.near()), _named(facts.masks), constants, positions=True)


def _named(part: Sequence[Known]) -> list[tuple[str, np.ndarray]]:
    return [(one.label, one.array) for one in part]
