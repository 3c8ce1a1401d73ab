"""An array normalised in the ways that ports mistake for one another."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from gradreg_validation.known import Candidates, Facts, Known

__all__ = ["denormalised", "normalised"]

_Affine = Sequence[tuple[str, np.ndarray]]
_EPS = (1e-5, 0.0, 1e-12, 1e-8, 1e-6, 1e-3, 1e-2)


def normalised(one: Known) -> Candidates:
    """Over one axis or all but the first: centred or not, divided by its deviation, root mean square or norm."""
    x = one.array
    axes: list[tuple[int, ...]] = [(axis,) for axis in range(x.ndim - 1, -1, -1)]
    axes += [tuple(range(1, x.ndim)), tuple(range(2, x.ndim))] if x.ndim > 2 else []
    for over in dict.fromkeys(axes):
        where = "over the last axis" if over == (x.ndim - 1,) else f"over the axes {over}"
        centred = x - x.mean(over, keepdims=True)
        size = int(np.prod([x.shape[axis] for axis in over]))
        square = (centred**2).sum(over, keepdims=True)
        raw = (x**2).sum(over, keepdims=True)
        spreads = {"deviation": square / size, "root mean square": raw / size, "norm": raw}
        if size > 1:
            spreads["deviation with n - 1"] = square / (size - 1)
        yield f"{one.label} minus its mean {where}", centred
        for (name, spread), eps in itertools.product(spreads.items(), _EPS):
            for y, centring in ((centred, " centred and"), (x, "")):
                if centring and name in ("root mean square", "norm"):
                    continue
                words = f"{one.label}{centring} divided by its {name} {where}"
                yield f"{words}, eps={eps:g}", y / np.sqrt(spread + eps)
                if eps:
                    yield f"{words}, eps={eps:g} outside of the root", y / (np.sqrt(spread) + eps)


def denormalised(target: np.ndarray, facts: Facts) -> Candidates:
    """Arrays normalised and scaled by parameters, and results scaled back by the statistics of a series."""
    vectors = [one for one in facts.constants if one.array.size > 1 and one.array.size == max(one.array.shape)]
    for axis in dict.fromkeys((target.ndim - 1, 1) if vectors and target.ndim > 1 else ()):
        affine = _affine(vectors, target.shape, axis)
        for one in facts.near() if affine else ():
            if one.array.shape == target.shape:
                for words, array in normalised(Known(one.label, one.array.astype(np.float64))):
                    yield from _scaled(words, array, affine)
    for turned in (False, True) if target.ndim == 3 else ():
        for words, array in _series(target.swapaxes(1, 2) if turned else target, facts, vectors):
            yield words, array.swapaxes(1, 2) if turned else array


def _affine(vectors: Sequence[Known], shape: tuple[int, ...], axis: int) -> _Affine:
    wide = tuple(-1 if i == axis else 1 for i in range(len(shape)))
    return [(one.label, one.array.reshape(wide)) for one in vectors if one.array.size == shape[axis]]


def _series(target: np.ndarray, facts: Facts, vectors: Sequence[Known]) -> Candidates:
    """Series normalised over an axis and scaled, and results scaled back, for a target (B, steps, channels)."""
    for series in (one for one in facts.inputs if one.array.ndim == 3 and one.array.dtype.kind == "f"):
        if len(series.array) != len(target) or series.array.shape[2] != target.shape[2]:
            continue
        affine = _affine(vectors, target.shape, 2)
        turned = [Known(one.label, one.array.swapaxes(1, 2)) for one in facts.near() if one.array.ndim == 3]
        same = [one for one in (*facts.near(), *turned) if one.array.shape == target.shape and one is not series]
        for words, mean, spread in _statistics(series):
            if series.array.shape == target.shape:
                yield from _scaled(f"{series.label} normalised by the {words}", (series.array - mean) / spread, affine)
            for one in same:
                for label, array in ((one.label, one.array), *_unscaled(one, affine)):
                    yield f"{label} times the {words}, plus the mean", array * spread + mean
                    yield f"{label} plus the mean, times the {words}", (array + mean) * spread
                    yield f"{label} times the {words}", array * spread
                    yield f"{label} times the square of the {words}, plus the mean", array * spread**2 + mean
                    yield f"{label} plus the mean of {series.label}", array + mean


def _statistics(series: Known) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(words, mean, deviation) over the steps of a series (B, steps, channels)."""
    x, axis = series.array.astype(np.float64), 1
    mean = x.mean(axis, keepdims=True)
    for ddof, eps in itertools.product((0, 1), _EPS):
        if x.shape[axis] > ddof:
            deviation = x.std(axis, keepdims=True, ddof=ddof)
            name = f"deviation{' with n - 1' if ddof else ''} of {series.label} over its steps"
            yield f"{name}, eps={eps:g}", mean, np.sqrt(deviation**2 + eps)
            if eps:
                yield f"{name}, eps={eps:g} outside of the root", mean, deviation + eps


def _scaled(label: str, array: np.ndarray, affine: _Affine) -> Candidates:
    for (scale, factor), (bias, shift) in itertools.permutations(affine, 2):
        yield f"{label}, times {scale}, plus {bias}", array * factor + shift
        yield f"{label}, plus {bias}, times {scale}", (array + shift) * factor
    for scale, factor in affine:
        yield f"{label}, times {scale}", array * factor
        yield f"{label}, times (1 + {scale})", array * (1 + factor)
        yield f"{label}, plus {scale}", array + factor


def _unscaled(one: Known, affine: _Affine) -> Candidates:
    """The affine map undone, in both orders."""
    for (scale, factor), (bias, shift) in itertools.permutations(affine, 2):
        yield f"({one.label} minus {bias}, divided by {scale})", (one.array - shift) / factor
        yield f"({one.label} divided by {scale}, minus {bias})", one.array / factor - shift
        yield f"({one.label} times {scale}, plus {bias})", one.array * factor + shift
