"""Maps of names, and how an array of one model is turned into its counterpart in the other."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from gradreg_core.errors import InputError, InputTypeError
from gradreg_validation.forms import FORMS

__all__ = ["Match", "Names", "Pair", "Rearrangement", "align", "pairs", "relative"]

_MAX_AXES = 5

_Turn = Sequence[int] | Callable[[np.ndarray], np.ndarray] | None
Rearrangement = Mapping[str, Sequence[int]] | _Turn
Names = Mapping[str, Any] | Sequence[Any]
"""Names in the first model -> names in the second: a dict, or a list of pairs, or of names that both have.

A name may be shortened to an ending that is unique. A third element of a pair says how the first array is turned into
the second: a permutation of its axes, a dict such as ``{"reshape": (4, 4, 8, 10), "axes": (3, 2, 0, 1)}`` (reshaped,
its axes permuted, then reshaped to the second's shape), or a function that only rearranges its elements.
"""


class Pair(NamedTuple):
    """An entry of a map of names."""

    names: tuple[str, str]
    how: Rearrangement
    forms: tuple[str | None, str | None] = (None, None)
    """Of layers: the activation that the other model's layer holds, and that is applied to this model's result."""

    def applied(self, i: int, array: np.ndarray) -> np.ndarray:
        """The result of one model's layer, with that activation applied."""
        form = self.forms[i]
        return array if form is None else FORMS[form](array.astype(np.float64)).astype(array.dtype)


class Match(NamedTuple):
    """An array of the first model and its counterpart in the second."""

    first: str
    second: str
    how: _Turn
    difference: float

    def rearrange(self, array: np.ndarray) -> np.ndarray:
        """An array of the first model in the layout of the second."""
        return _rearrange(array, self.how)


def pairs(name: str, given: Names | None) -> list[Pair]:
    """The entries of a map of names."""
    entries = []
    for item in given.items() if isinstance(given, Mapping) else given or ():
        entry = (item, item) if isinstance(item, str) else tuple(item) if isinstance(item, list | tuple) else ()
        if len(entry) == 2 and isinstance(entry[1], list | tuple):  # a dict whose values are (name, rearrangement)
            entry = (entry[0], *entry[1])
        if len(entry) not in (2, 3) or not all(isinstance(part, str) for part in entry[:2]):
            raise InputTypeError(
                f"validate: {name} must be a dict of names or a list of (first, second) or (first, second, axes), "
                f"got the entry {item!r}."
            )
        entries.append(Pair((entry[0], entry[1]), entry[2] if len(entry) == 3 else None))
    return entries


def relative(first: np.ndarray, second: np.ndarray) -> float:
    """||first - second|| over the larger norm; 0 if both are zero, infinite if anything is not finite."""
    one, two = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if one.shape != two.shape:
        raise InputError(
            f"validate: the models give shapes {one.shape} and {two.shape} for one quantity; they are not ports of "
            f"each other, or need inputs= or class_axis=."
        )
    if not (np.isfinite(one).all() and np.isfinite(two).all()):
        return math.inf
    scale = max(np.linalg.norm(one), np.linalg.norm(two))
    return float(np.linalg.norm(one - two) / scale) if scale else 0.0


def _rearrange(array: np.ndarray, how: _Turn) -> np.ndarray:
    if how is None:
        return array
    return np.asarray(how(array)) if callable(how) else np.transpose(array, tuple(how))


def _reordering(how: Mapping[str, Sequence[int]], first: np.ndarray, second: np.ndarray) -> _Turn:
    """The function that a mapping of "reshape" and "axes" stands for.

    Raises:
        InputError: it has other keys, or the shapes do not fit.
    """

    def reorder(array: np.ndarray) -> np.ndarray:
        return np.transpose(np.reshape(array, tuple(how["reshape"])), tuple(how["axes"])).reshape(second.shape)

    def by_blocks(array: np.ndarray) -> np.ndarray:
        order, axis = tuple(how["blocks"]), int(how["axis"])  # type: ignore[call-overload]
        parts = np.split(array, len(order), axis)
        return np.transpose(np.concatenate([parts[i] for i in order], axis), tuple(how["axes"]))

    if set(how) == {"blocks", "axis", "axes"}:
        return by_blocks
    if set(how) != {"reshape", "axes"}:
        raise InputError(
            f"validate: expected a rearrangement with 'reshape' and 'axes', or with 'blocks', 'axis' and 'axes', got "
            f"{dict(how)!r}."
        )
    try:
        reorder(first)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"validate: {dict(how)!r} does not turn an array of shape {first.shape} into one of shape {second.shape}: "
            f"{error}."
        ) from error
    return reorder


def align(
    first: np.ndarray, second: np.ndarray, how: Rearrangement, transpose: bool, batch: bool = False
) -> tuple[_Turn, float]:
    """How the first is turned into the second, and their difference then; NaN if the shapes do not fit.

    Without `how`, the best permutation among those with the right shape; with `batch`, among those that leave axis 0.
    """
    turn = _reordering(how, first, second) if isinstance(how, Mapping) else how
    choices: list[_Turn] = [turn]
    if turn is None and transpose and 2 <= first.ndim <= _MAX_AXES:
        axes = list(permutations(range(first.ndim)))
        choices += [order for order in axes[1:] if not (batch and order[0])]
    elif turn is not None and not callable(turn) and sorted(turn) != list(range(first.ndim)):
        raise InputError(f"validate: {tuple(turn)} does not permute the axes of an array of shape {first.shape}.")
    best: tuple[_Turn, float] = (turn, math.nan)
    for choice in choices:
        moved = _rearrange(first, choice)
        if moved.shape == second.shape:
            difference = relative(moved, second)
            if not best[1] <= difference:
                best = (choice, difference)
            if difference == 0:
                break
    return best
