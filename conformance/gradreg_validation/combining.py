"""Sums, products, gates and concatenations of two or three arrays."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gradreg_validation.forms import FORMS
from gradreg_validation.known import Candidates, Facts, Known, derived

__all__ = ["composites", "graphs", "together"]

_OUTER = ("relu", "GELU in its exact (erf) form", "GELU in its tanh approximation", "silu (swish)", "tanh", "sigmoid")
_OUTER_TOO = ("softplus", "elu of alpha 1.0", "leaky relu of slope 0.01")
_GATES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "{}": lambda x: x,
    "sigmoid of {}": FORMS["sigmoid"],
    "(1 + {})": lambda x: 1 + x,
    "exp of {}": np.exp,
    "exp of half of {}": lambda x: np.exp(x / 2),
    "softplus of {}": FORMS["softplus"],
    "tanh of {}": np.tanh,
    "hard sigmoid, relu6(x + 3) / 6 of {}": FORMS["hard sigmoid, relu6(x + 3) / 6"],
    "softmax over the last axis of {}": FORMS["softmax over the last axis"],
}
_PARTS = 20
"""The nearest arrays that may be parts of a concatenation."""
_PLAIN = ("{}", "sigmoid of {}", "(1 + {})")
_ADDED = (*_OUTER, "hard swish", "relu6", "softplus", "exp")
Useful = Callable[[tuple[int, ...]], bool]
"""Whether arrays of a given shape help."""


def together(target: np.ndarray, facts: Facts) -> Candidates:
    """Combinations of the target's shape."""

    def fits(shape: tuple[int, ...]) -> bool:
        return shape == target.shape

    near = facts.near()
    forms = derived(near)
    for one, two in itertools.permutations(forms, 2):
        first, second = one.array, two.array
        if first.shape == second.shape == target.shape:
            if one.label < two.label:
                yield f"{one.label} plus {two.label}", first + second
                yield f"{one.label} times {two.label}", first * second
            yield f"{one.label} minus {two.label}", first - second
    yield from _joined(target, derived(facts.all()[:_PARTS]))
    yield from composites(facts, fits)


def composites(facts: Facts, useful: Useful, outer: bool = True) -> Candidates:
    """Sums, gated sums and gated units of the arrays, and functions of those, where their shape helps.

    Args:
        facts: the arrays.
        useful: whether arrays of a given shape help.
        outer: whether functions of gated sums are tried, of which there are many.
    """
    near = facts.near()
    for words, array in itertools.chain(_sums(near, useful), _gated_sums(facts, useful), _units(near, useful)):
        yield words, array
    for words, array in itertools.chain(_sums(near, useful), _gated_sums(facts, useful, _PLAIN) if outer else ()):
        for form in (*_OUTER, *_OUTER_TOO):
            yield f"{form} of ({words})", FORMS[form](array)


def _sums(near: Sequence[Known], useful: Useful) -> Candidates:
    formed = [one for one in derived(near, _ADDED) if all(one.label != plain.label for plain in near)]
    for one, two in (*itertools.combinations(near, 2), *itertools.product(near, formed)):
        if (pair := _alike(one.array, two.array)) and useful(pair[0].shape):
            yield f"{one.label} plus {two.label}", pair[0] + pair[1]
    for three in itertools.combinations(near, 3):
        if len({one.array.shape for one in three}) == 1 and useful(three[0].array.shape):
            yield " plus ".join(one.label for one in three), sum(one.array for one in three)  # type: ignore[misc]


def _alike(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The two arrays in one shape: one of (B, C) is spread over the positions of the other."""
    if first.shape == second.shape:
        return first, second
    if first.ndim == second.ndim > 2:  # one of them has its channels last
        for source in (1, first.ndim - 1):
            turned = np.moveaxis(second, source, first.ndim - source)
            if turned.shape == first.shape:
                return first, turned
    for small, large in ((first, second), (second, first)):
        spread = next(_spread(small, large.shape), None)
        if spread is not None:
            return (spread, large) if small is first else (large, spread)
    return None


def _spread(array: np.ndarray, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """An array of (C) or (B, C) in every position of a larger one, for both places of its channels."""
    if array.shape == shape:
        yield array
        return
    if array.ndim > 2 or array.ndim >= len(shape) or (array.ndim == 2 and len(array) != shape[0]):
        return
    for axis in dict.fromkeys((1, len(shape) - 1)):
        if shape[axis] == array.shape[-1]:
            wide = [len(array) if array.ndim == 2 else 1] + [1] * (len(shape) - 1)
            wide[axis] = shape[axis]
            yield np.broadcast_to(array.reshape(wide), shape)


def _gated_sums(facts: Facts, useful: Useful, gates: Sequence[str] = tuple(_GATES)) -> Candidates:
    """G(b) c, a + g(b) c, and (1 - g(b)) a + g(b) c."""
    near = facts.near()
    for gate, one in itertools.product([*near, *facts.constants], near):
        shape = one.array.shape
        if gate is one or not useful(shape):
            continue
        for words in gates:
            for factor in _spread(_GATES[words](gate.array), shape):
                said = f"{one.label} times {words.format(gate.label)}"
                product = factor * one.array
                yield said, product
                for other in near:
                    if (pair := _alike(other.array, product)) and useful(pair[0].shape):
                        yield f"{other.label} plus {said}", pair[0] + pair[1]
                        if words == "sigmoid of {}" and other is not one and other.array.shape == shape:
                            mixed = f"{said} plus (1 - sigmoid of {gate.label}) times {other.label}"
                            yield mixed, product + (1 - factor) * other.array


def _units(near: Sequence[Known], useful: Useful) -> Candidates:
    """Gated linear units of the halves of one array, and gates of WaveNet of two."""
    for one, two in itertools.permutations(near, 2):
        if one.array.shape == two.array.shape and useful(one.array.shape):
            yield f"tanh of {one.label} times sigmoid of {two.label}", np.tanh(one.array) * FORMS["sigmoid"](two.array)
    for one in near:
        for axis in {1, one.array.ndim - 1}:
            if one.array.ndim < 2 or one.array.shape[axis] % 2:
                continue
            half = tuple(n // 2 if i == axis else n for i, n in enumerate(one.array.shape))
            if useful(half):
                by_halves = np.split(one.array, 2, axis)
                by_turns = [np.moveaxis(np.moveaxis(one.array, axis, 0)[i::2], 0, axis) for i in (0, 1)]
                yield from _unit(one.label, by_halves, ("first half", "second"))
                yield from _unit(one.label, by_turns, ("even channels", "odd ones"))


def _unit(label: str, parts: Sequence[np.ndarray], names: tuple[str, str]) -> Candidates:
    first, second = parts
    for form in ("sigmoid", "the identity", "softplus", *_OUTER):
        gate = FORMS[form]
        yield f"the {names[0]} of {label} times {form} of the {names[1]}", first * gate(second)
        yield f"{form} of the {names[0]} of {label} times the {names[1]}", gate(first) * second
    yield (
        f"tanh of the {names[0]} of {label} times sigmoid of the {names[1]}",
        np.tanh(first) * FORMS["sigmoid"](second),
    )
    yield (
        f"sigmoid of the {names[0]} of {label} times tanh of the {names[1]}",
        FORMS["sigmoid"](first) * np.tanh(second),
    )


def _joined(target: np.ndarray, parts: Sequence[Known]) -> Candidates:
    """Concatenations along an axis: the part that fits next is added until the target is full."""
    for axis in range(1, target.ndim):
        fitting = [
            one
            for one in parts
            if one.array.ndim == target.ndim
            and all(one.array.shape[i] == target.shape[i] for i in range(target.ndim) if i != axis)
        ]
        labels: list[str] = []
        start = 0
        while start < target.shape[axis]:
            left = np.moveaxis(target, axis, 0)[start:]
            next_one = next((one for one in fitting if _starts(left, np.moveaxis(one.array, axis, 0))), None)
            if next_one is None:
                break
            labels.append(next_one.label)
            start += next_one.array.shape[axis]
        if len(labels) > 1 and start == target.shape[axis]:
            yield f"{', '.join(labels)} joined along axis {axis}", target


def _starts(array: np.ndarray, part: np.ndarray) -> bool:
    """Whether an array begins with a part, up to roundoff of float32."""
    head = array[: len(part)]
    return len(array) >= len(part) and bool(np.linalg.norm(head - part) <= 1e-5 * np.linalg.norm(part))


def graphs(target: np.ndarray, facts: Facts) -> Candidates:
    """Products with a matrix per sample, as the adjacency of a graph: as it is, or its rows or columns normalised."""
    matrices = [one for one in facts.inputs if one.array.ndim == 3 and one.array.shape[1] == one.array.shape[2]]
    for matrix, one in itertools.product(matrices, facts.near()):
        if one is matrix or one.array.ndim != 3 or one.array.shape[1] != matrix.array.shape[1]:
            continue
        loops = np.eye(matrix.array.shape[1])
        kinds = {matrix.label: matrix.array, f"({matrix.label} plus the identity)": matrix.array + loops}
        for label, plain in kinds.items():
            for name, a in ((label, plain), (f"{label} transposed", plain.swapaxes(1, 2))):
                rows, columns = a.sum(2, keepdims=True), a.sum(1, keepdims=True)
                yield f"the sum of {one.label} over neighbours by {name}", a @ one.array
                yield f"the mean of {one.label} over neighbours by {name}", a @ one.array / rows
                yield f"{name}, its columns normalised, times {one.label}", a / columns @ one.array
                both = a / np.sqrt(rows) / np.sqrt(rows.swapaxes(1, 2))
                yield f"{name}, symmetrically normalised, times {one.label}", both @ one.array
