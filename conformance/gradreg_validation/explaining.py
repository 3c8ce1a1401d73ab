"""What lies between two layers: which plain function of earlier activations gives an array.

Both models are searched alike. Where each has an explanation and they are not the same, the difference has a name.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradreg_validation.arrays import relative
from gradreg_validation.attending import attentions
from gradreg_validation.forms import FORMS
from gradreg_validation.resizing import resizes

__all__ = ["Explanation", "Known", "explanations"]

_INNER = ("relu", "tanh", "sigmoid", "silu (swish)", "GELU in its exact (erf) form", "GELU in its tanh approximation")
_NEAREST = 5
"""The earlier arrays that are looked at."""
_LARGEST = 200_000
"""Elements of an array, beyond which nothing is searched."""


@dataclass(frozen=True)
class Known:
    """An array that both models have computed alike, and what the report calls it."""

    label: str
    array: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """A function of known arrays that gives the array."""

    words: str
    error: float


def explanations(
    target: np.ndarray, known: Sequence[Known], masks: Sequence[Known], within: float
) -> dict[str, Explanation]:
    """All functions of the known arrays that give the target up to a relative error of `within`, by their words.

    Args:
        target: the array to explain.
        known: earlier arrays, the nearest last.
        masks: inputs of the model that hold zeros and ones alone.
        within: the largest relative error.
    """
    if target.size > _LARGEST or target.dtype.kind != "f":
        return {}
    matches: dict[str, Explanation] = {}
    near = [one for one in known if one.array.dtype.kind == "f" and one.array.size <= _LARGEST][-_NEAREST:][::-1]
    target = target.astype(np.float64)
    with np.errstate(all="ignore"):
        for search in (_alone, _scaled, _together, _reduced, _attended):
            for words, array in search(target, near, masks):
                if array.shape == target.shape:
                    error = relative(array, target)
                    if error <= within and words not in matches:
                        matches[words] = Explanation(words, error)
            if matches:
                break
    return matches


_Candidates = Iterator[tuple[str, np.ndarray]]


def _derived(near: Sequence[Known], forms: Sequence[str] = _INNER) -> list[Known]:
    """The arrays and functions of them."""
    return [
        Known(one.label if form == "the identity" else f"{form} of {one.label}", FORMS[form](one.array))
        for one in near
        for form in dict.fromkeys(("the identity", *forms))
    ]


def _alone(target: np.ndarray, near: Sequence[Known], masks: Sequence[Known]) -> _Candidates:
    """A form of one array, normalised, resized, or in another order."""
    for one in near:
        array = one.array.astype(np.float64)
        if array.shape == target.shape:
            for form, function in FORMS.items():
                yield (one.label if form == "the identity" else f"{form} of {one.label}"), function(array)
            for eps in (1e-12, 1e-6, 1e-5, 1e-3):
                centred = array - array.mean(-1, keepdims=True)
                normal = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
                yield f"{one.label} normalised over the last axis with eps={eps:g}", normal
            for axis, count in itertools.product(range(1, array.ndim), (1, 2)):
                if array.ndim > 2:
                    yield f"{one.label} shifted by {count} along axis {axis}", _shifted(array, axis, count)
            for axis in range(1, array.ndim):
                yield f"{one.label} reversed along axis {axis}", np.flip(array, axis)
            for mask in masks:
                if mask.array.shape == array.shape[: mask.array.ndim]:
                    kept = mask.array.reshape(*mask.array.shape, *([1] * (array.ndim - mask.array.ndim)))
                    yield f"{one.label} where {mask.label} is 1", array * kept
                    yield f"{one.label} where {mask.label} is 0", array * (1 - kept)
    for one in _derived(near, list(FORMS)):
        if one.array.size == target.size:
            yield from _reordered(target, one)
        if one.array.ndim == target.ndim and target.ndim > 2:
            for words, array in resizes(one.array, target.shape):
                yield f"{one.label} {words}", array


def _shifted(array: np.ndarray, axis: int, count: int) -> np.ndarray:
    moved = np.roll(array, count, axis)
    index: list[Any] = [slice(None)] * array.ndim
    index[axis] = slice(0, count)
    moved[tuple(index)] = 0
    return moved


def _reordered(target: np.ndarray, one: Known) -> _Candidates:
    axes = range(1, one.array.ndim)
    for order in itertools.permutations(axes) if one.array.ndim <= 5 else ():
        whole = (0, *order)
        plain = whole == tuple(range(one.array.ndim))
        if plain and one.array.shape == target.shape:
            continue
        words = "flattened" if target.ndim == 2 else "reshaped"
        how = "" if plain else f" in another order, with its axes permuted to {whole} before"
        yield f"{one.label} {words}{how}", np.transpose(one.array, whole).reshape(target.shape)


def _scaled(target: np.ndarray, near: Sequence[Known], masks: Sequence[Known]) -> _Candidates:
    """A multiple of one array, or one with entries dropped at random."""
    for one in _derived(near):
        if one.array.shape != target.shape or not np.any(one.array):
            continue
        factor = float(np.vdot(one.array, target) / np.vdot(one.array, one.array))
        yield f"{one.label} times {factor:.4g}", factor * one.array
        dropped = (target == 0) & (one.array != 0)
        if dropped.any() and not dropped.all():
            left = ~dropped
            factor = float(np.vdot(one.array[left], target[left]) / np.vdot(one.array[left], one.array[left]))
            share = dropped.mean()
            if 0.5 < factor * (1 - share) < 2 and factor > 1.01:
                yield f"{one.label} with {share:.0%} dropped, as dropout does in training", factor * left * one.array


def _together(target: np.ndarray, near: Sequence[Known], masks: Sequence[Known]) -> _Candidates:
    """A sum, a product or a concatenation of two arrays."""
    derived = _derived(near)
    for one, two in itertools.permutations(derived, 2):
        first, second = one.array, two.array
        if first.shape == second.shape:
            if first.shape == target.shape and one.label < two.label:
                yield f"{one.label} plus {two.label}", first + second
                yield f"{one.label} times {two.label}", first * second
                for form in ("relu", "GELU in its exact (erf) form"):
                    yield f"{form} of the sum of {one.label} and {two.label}", FORMS[form](first + second)
            if first.shape == target.shape:
                yield f"{one.label} minus {two.label}", first - second
        elif first.ndim == 2 and second.ndim > 2 and second.shape == target.shape:
            for axis in (1, second.ndim - 1):
                if second.shape[axis] == first.shape[1]:
                    shape = [len(first)] + [1] * (second.ndim - 1)
                    shape[axis] = first.shape[1]
                    yield f"{two.label} plus {one.label}", second + first.reshape(shape)
        for axis in range(1, target.ndim):
            joined = first.ndim == second.ndim == target.ndim and all(
                first.shape[i] == second.shape[i] == target.shape[i] for i in range(target.ndim) if i != axis
            )
            if joined and first.shape[axis] + second.shape[axis] == target.shape[axis]:
                yield f"{one.label} and {two.label} joined along axis {axis}", np.concatenate([first, second], axis)
    for one, two in itertools.permutations(near, 2):
        yield from _gates(one, two, target.shape)
    for one, two in itertools.combinations(near, 2):
        yield f"tanh of {one.label} times sigmoid of {two.label}", _gated(one.array, two.array)
        yield f"tanh of {two.label} times sigmoid of {one.label}", _gated(two.array, one.array)
    for one in near:  # gated linear units and their kin
        for axis in {1, one.array.ndim - 1}:
            if one.array.ndim > 1 and one.array.shape[axis] % 2 == 0:
                first, second = np.split(one.array, 2, axis)
                for form in ("sigmoid", "the identity", *_INNER):
                    gate = FORMS[form]
                    yield f"the first half of {one.label} times {form} of the second", first * gate(second)
                    yield f"{form} of the first half of {one.label} times the second", gate(first) * second
                yield f"tanh of the first half of {one.label} times sigmoid of the second", _gated(first, second)
                yield f"sigmoid of the first half of {one.label} times tanh of the second", _gated(second, first)


def _gates(one: Known, two: Known, shape: tuple[int, ...]) -> _Candidates:
    """The second array times a function of the first, one number per channel."""
    if one.array.ndim == 2 and two.array.ndim > 2 and two.array.shape == shape:
        for axis in (1, len(shape) - 1):
            if shape[axis] == one.array.shape[1]:
                per_channel = [len(one.array)] + [1] * (len(shape) - 1)
                per_channel[axis] = shape[axis]
                for form, function in FORMS.items():
                    yield (
                        f"{two.label} times {form} of {one.label}",
                        two.array * function(one.array).reshape(per_channel),
                    )


def _gated(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.tanh(first) * FORMS["sigmoid"](second) if first.shape == second.shape else np.zeros(0)


def _reduced(target: np.ndarray, near: Sequence[Known], masks: Sequence[Known]) -> _Candidates:
    """Means, maxima and single positions of one array, over axes or windows, with or without a mask."""
    reductions: dict[str, Any] = {"mean": np.mean, "maximum": np.max, "sum": np.sum}
    for one in _derived(near, list(FORMS)):
        array = one.array
        for count in range(1, array.ndim):
            for axes in itertools.combinations(range(1, array.ndim), count):
                for name, reduce in reductions.items():
                    yield f"the {name} of {one.label} over the axes {axes}", reduce(array, axes)
        if array.ndim > 2:
            yield f"the first position of {one.label}", array[:, 0]
            yield f"the last position of {one.label}", array[:, -1]
            for mask in masks:
                yield from _masked(one, mask)
        if array.ndim == target.ndim > 2:
            yield from _pooled(target, one)


def _masked(one: Known, mask: Known) -> _Candidates:
    if mask.array.shape != one.array.shape[:2]:
        return
    for value in (1, 0):
        kept = (mask.array == value)[..., None].astype(np.float64)
        total = (one.array * kept).sum(1)
        yield f"the mean of {one.label} where {mask.label} is {value}", total / np.maximum(kept.sum(1), 1e-9)
        yield f"the sum of {one.label} where {mask.label} is {value}", total
        yield f"the sum of {one.label} where {mask.label} is {value} over all positions", total / one.array.shape[1]
        if kept.any(1).all():
            yield (
                f"the maximum of {one.label} where {mask.label} is {value}",
                np.where(kept > 0, one.array, -np.inf).max(1),
            )


def _pooled(target: np.ndarray, one: Known) -> _Candidates:
    array = one.array
    for size in (2, 3):
        for axes in (range(2, array.ndim), range(1, array.ndim - 1)):
            if any(array.shape[axis] < size for axis in axes):
                continue
            window = tuple(size if axis in axes else 1 for axis in range(array.ndim))
            view = np.lib.stride_tricks.sliding_window_view(array, window)
            inner = tuple(range(array.ndim, 2 * array.ndim))
            for stride in sorted({1, 2, size}):
                cut = view[tuple(slice(None, None, stride if axis in axes else 1) for axis in range(array.ndim))]
                if cut.shape[: array.ndim] == target.shape:
                    yield f"the maximum of {one.label} in windows of {size}, stride {stride}", cut.max(inner)
                    yield f"the average of {one.label} in windows of {size}, stride {stride}", cut.mean(inner)


def _attended(target: np.ndarray, near: Sequence[Known], masks: Sequence[Known]) -> _Candidates:
    """Softmax attention over three arrays, or over the thirds of one."""
    yield from attentions(target, [(one.label, one.array) for one in near], [(m.label, m.array) for m in masks])
