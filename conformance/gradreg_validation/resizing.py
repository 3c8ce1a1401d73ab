"""Resizing of images in NumPy, in the conventions that ports mistake for one another."""

import functools
import math
from collections.abc import Callable, Iterator

import numpy as np

__all__ = ["resizes"]


def _half(i: np.ndarray, old: int, new: int) -> np.ndarray:
    return (i + 0.5) * old / new - 0.5


def _corners(i: np.ndarray, old: int, new: int) -> np.ndarray:
    return i * (old - 1) / max(new - 1, 1)


def _asymmetric(i: np.ndarray, old: int, new: int) -> np.ndarray:
    return i * old / new


_PLACES: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "half-pixel centres": _half,
    "aligned corners": _corners,
    "neither half-pixel centres nor aligned corners": _asymmetric,
}


def resizes(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[tuple[str, np.ndarray]]:
    """(words, array of that shape) for linear, cubic and nearest resizing of the axes whose lengths differ."""
    axes = [axis for axis, (old, new) in enumerate(zip(array.shape, shape, strict=True)) if old != new]
    if not axes or 0 in axes or any(max(array.shape[axis], shape[axis]) > 512 for axis in axes):
        return
    for convention, places in _PLACES.items():
        for method in ("linear", "nearest", "cubic (a=-0.75)", "cubic (a=-0.5)"):
            y = array
            for axis in axes:
                matrix = _matrix(array.shape[axis], shape[axis], places, method)
                y = np.moveaxis(np.tensordot(matrix, y, ([1], [axis])), 0, axis)
            yield f"resized, {method}, with {convention}", y


@functools.lru_cache(256)
def _matrix(old: int, new: int, places: Callable[[np.ndarray, int, int], np.ndarray], method: str) -> np.ndarray:
    """(new, old): each new position as weights of the old ones, the edges repeated."""
    matrix = np.zeros((new, old))
    for row, place in enumerate(places(np.arange(new), old, new)):
        if method == "nearest":
            start, weights = math.floor(place + (0.5 if places is not _asymmetric else 0) + 1e-9), [1.0]
        elif method == "linear":
            start = math.floor(place)
            weights = [1 - (place - start), place - start]
        else:
            start = math.floor(place) - 1
            a = -0.75 if "0.75" in method else -0.5
            weights = [_cubic(abs(place - start - i), a) for i in range(4)]
        for i, weight in enumerate(weights):
            matrix[row, min(max(start + i, 0), old - 1)] += weight
    return matrix


def _cubic(t: float, a: float) -> float:
    if t <= 1:
        return (a + 2) * t**3 - (a + 3) * t**2 + 1
    return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0
