"""Means, maxima, single positions and pools of an array, over axes or windows, with or without a mask."""

import itertools
from collections.abc import Callable

import numpy as np

from gradreg_validation.combining import composites
from gradreg_validation.forms import FORMS
from gradreg_validation.known import Candidates, Facts, Known, derived

__all__ = ["reduced"]


def _logsumexp(array: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    top = array.max(axes, keepdims=True)
    return np.asarray(np.log(np.exp(array - top).sum(axes)) + np.squeeze(top, axes))


_REDUCTIONS: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "mean": lambda array, axes: array.mean(axes),
    "maximum": lambda array, axes: array.max(axes),
    "sum": lambda array, axes: array.sum(axes),
    "logsumexp": _logsumexp,
}


def reduced(target: np.ndarray, facts: Facts) -> Candidates:
    """Reductions of one array, then of sums and gated sums."""
    for one in derived(facts.near(), list(FORMS)):
        yield from _over_axes(target.shape, one.label, one.array)
        for mask in facts.masks:
            yield from _masked(one, mask)
        if one.array.ndim == target.ndim > 2:
            yield from _pooled(target, one)

    def useful(shape: tuple[int, ...]) -> bool:
        return shape != target.shape and bool(_axes(shape, target.shape))

    for words, array in composites(facts, useful, outer=False):
        yield from _over_axes(target.shape, f"({words})", array)


def _axes(shape: tuple[int, ...], wanted: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The axes over which a reduction gives that shape."""
    count = len(shape) - len(wanted)
    choices = itertools.combinations(range(1, len(shape)), count) if count > 0 else ()
    return [axes for axes in choices if tuple(n for i, n in enumerate(shape) if i not in axes) == wanted]


def _over_axes(wanted: tuple[int, ...], label: str, array: np.ndarray) -> Candidates:
    for axes in _axes(array.shape, wanted):
        for name, reduce in _REDUCTIONS.items():
            yield f"the {name} of {label} over the axes {axes}", reduce(array, axes)
        if len(axes) == 1:
            yield f"the first position of {label}", np.take(array, 0, axes[0])
            yield f"the last position of {label}", np.take(array, -1, axes[0])
    if len(wanted) == 2 and array.ndim > 2 and array[0].size == wanted[1]:
        yield f"{label} flattened", array.reshape(wanted)


def _masked(one: Known, mask: Known) -> Candidates:
    if one.array.ndim < 3 or mask.array.shape != one.array.shape[:2]:
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
            last = one.array.shape[1] - 1 - np.argmax(kept[:, ::-1, 0], 1)
            yield f"the last position of {one.label} where {mask.label} is {value}", one.array[range(len(last)), last]


def _pooled(target: np.ndarray, one: Known) -> Candidates:
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
