"""The penalty's derivatives against finite differences, along its input and along the weights of the model."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from gradreg_core.backend import Array
from gradreg_core.objective import Objective
from gradreg_core.preflight.subject import Subject

__all__ = ["AGREEMENT", "Comparison", "Differences", "compare"]

_RELATIVE_STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Relative steps of the central differences: one of them suits the curvature and roundoff of any usual model."""
AGREEMENT = 5e-3
"""A right gradient agrees with the best of these differences to about 1e-3 in float32; frameworks' errors in second
derivatives are 1e-2 or larger."""
_SETTLED = 0.1
_FLOOR_OF_INPUT, _FLOOR_OF_WEIGHTS = 1e-3, 1e-2
"""A derivative below this share of the penalty (steps are relative) counts as this share: roundoff hides it."""
_BLURRED = 0.1
"""A resolution too coarse to judge by. In float32 it is 1e-5."""
_NOISE = 5
"""How far the rounding of one step may exceed that of another."""
_TRIALS, _CANDIDATES = 2, 3
"""Directions that are compared, and random directions from which each is chosen as the steepest."""
_NAMED = 3
"""Weights that a message names."""


def compare(slope: float, differences: Sequence[float], distances: Sequence[float], floor: float) -> tuple[float, bool]:
    """A derivative against central differences.

    Args:
        slope: the derivative.
        differences: (f(h) - f(-h)) / (2 h) for each h.
        distances: the h, from the largest to the smallest.
        floor: smaller values count as this.

    Returns:
        The relative difference from the nearest, and whether they settle on a value, right or wrong, as they do for
        a smooth function.
    """

    def apart(first: float, second: float) -> float:
        return abs(first - second) / max(abs(first), abs(second), floor, 1e-30)

    # Richardson: the error of a central difference is proportional to the square of its step.
    better = [
        near + (near - far) / ((h / closer) ** 2 - 1)
        for (far, near), (h, closer) in zip(pairwise(differences), pairwise(distances), strict=True)
    ]
    best = min(apart(difference, slope) for difference in (*differences, *better))
    return best, min(apart(*pair) for pair in pairwise(differences)) <= _SETTLED * best


@dataclass(frozen=True)
class Comparison:
    """A derivative compared with differences."""

    nearest: float
    """Its relative difference from the nearest."""
    settled: bool
    """Whether the differences settle on a value, so that a disagreement is the derivative's fault."""
    resolution: float = 0.0
    """The rounding error of the largest step, relative to the derivative; large in half precision."""

    zeros_held: bool = False
    """Whether it agrees only if the zeros of the input stay zeros."""

    @property
    def is_blurred(self) -> bool:
        """Whether rounding hides the derivative."""
        return self.resolution > _BLURRED

    @property
    def agrees(self) -> bool:
        """Whether the derivative is right, as far as rounding lets it be seen."""
        return self.nearest <= max(AGREEMENT, self.resolution)

    @property
    def is_wrong(self) -> bool:
        """Whether it is certainly wrong."""
        return self.settled and not self.agrees


class Differences:
    """A smooth penalty and its gradients, to be compared with differences.

    Args:
        subject: the call.
        objective: the penalty with its kinks rounded off.
        scale: of the gradients, a power of two that keeps them above float16's smallest numbers.
    """

    def __init__(self, subject: Subject, objective: Objective, scale: float = 1.0) -> None:
        self.subject, self.objective, self.scale = subject, objective, scale
        self.x = subject.packed
        value, self.of_weights, self.of_input = objective.gradients(self.x, scale)
        self.value = subject.number(value)

    def along_input(self) -> Comparison | None:
        """The derivative along a random direction of the input; None if nothing in the input is differentiable.

        If it disagrees, a second direction leaves zeros as they are: a model may compute a mask from them.
        """
        if self.x is None:
            return None
        x, ops = self.x, self.subject.ops
        v = self.subject.random(x) * self._length(x)
        free = self._along_input(v)
        if free.agrees or free.is_blurred:
            return free
        nonzero = ops.astype(x * x > 0, ops.dtype(v))
        if self.subject.length(nonzero - 1) == 0 or self.subject.length(nonzero) == 0:
            return free
        held = self._along_input(v * nonzero)
        return replace(held, zeros_held=True) if held.agrees and not held.is_blurred else free

    def _along_input(self, v: Array) -> Comparison:
        x, ops = self.x, self.subject.ops
        slope = 0.0 if self.of_input is None else self._product(self.of_input, v)

        def value(step: float) -> Array:
            return self.objective.at(self.objective.weights, x + ops.astype(v * step, ops.dtype(x)))

        return self._compared(slope, value, _FLOOR_OF_INPUT)

    @cached_property
    def given(self) -> list[int]:
        """The weights that the gradient reaches."""
        return [index for index, gradient in enumerate(self.of_weights) if not self._is_missing(gradient)]

    @cached_property
    def missing(self) -> list[int]:
        """The weights that the outputs depend on and that get no gradient."""
        lacking = [index for index in range(len(self.of_weights)) if index not in self.given]
        reached = self.objective.reached() if lacking else []
        return [index for index in lacking if reached[index]]

    def along_weights(self, indices: Sequence[int]) -> Comparison:
        """The derivative along random directions in some weights together, the worst of a few."""
        worst = Comparison(0.0, True)
        for trial in range(_TRIALS if indices else 0):
            comparison = self._along(indices, trial)
            if comparison.nearest > worst.nearest:
                worst = comparison
        return worst

    def names(self, indices: Sequence[int]) -> str:
        """The first few weights whose own derivative is wrong, by halving the set again and again."""
        wrong = self._wrong(indices, _NAMED + 1)
        names = [self.objective.names[index] for index in wrong]
        return ", ".join(names[:_NAMED]) + (" and more" if len(names) > _NAMED else "")

    def _wrong(self, indices: Sequence[int], most: int) -> list[int]:
        if len(indices) == 1:
            return list(indices)
        half = len(indices) // 2
        wrong: list[int] = []
        for part in (indices[:half], indices[half:]):
            if len(wrong) < most and self.along_weights(part).is_wrong:
                wrong += self._wrong(part, most - len(wrong))
        return wrong

    def _along(self, indices: Sequence[int], trial: int) -> Comparison:
        slope, directions = self._steep(indices, trial)
        ops, weights = self.subject.ops, list(self.objective.weights)

        def value(step: float) -> Array:
            moved = list(weights)
            for index, v in zip(indices, directions, strict=True):
                moved[index] = weights[index] + ops.astype(v * step, ops.dtype(weights[index]))
            return self.objective.at(moved, self.x)

        return self._compared(slope, value, _FLOOR_OF_WEIGHTS)

    def _steep(self, indices: Sequence[int], trial: int) -> tuple[float, list[Array]]:
        """The steepest of a few random directions, relative to the weights' own size, and the slope along it.

        Along a random direction an error shows in its full proportion; a flat one would drown in roundoff.
        """
        lengths = [self._length(self.objective.weights[index]) for index in indices]
        best: tuple[float, list[Array]] = (0.0, [])
        for candidate in range(_CANDIDATES):
            seed = 1000 * (_CANDIDATES * trial + candidate)
            directions = [
                self.subject.random(self.objective.weights[index], seed + index) * length
                for index, length in zip(indices, lengths, strict=True)
            ]
            slope = sum(
                self._product(gradient, v)
                for gradient, v in zip((self.of_weights[index] for index in indices), directions, strict=True)
                if gradient is not None
            )
            if not best[1] or abs(slope) > abs(best[0]):
                best = slope, directions
        return best

    def _compared(self, slope: float, value: Callable[[float], Array], floor: float) -> Comparison:
        number = self.subject.number
        differences = [(number(value(step)) - number(value(-step))) / (2 * step) for step in _RELATIVE_STEPS]
        if not math.isfinite(slope) or not all(map(math.isfinite, differences)):
            return Comparison(math.inf, False)
        least = floor * abs(self.value)
        # A smooth function has equal differences at the two smallest steps, up to its rounding divided by the step.
        rounding = abs(differences[-1] - differences[-2]) * _RELATIVE_STEPS[-1]
        resolution = _NOISE * rounding / _RELATIVE_STEPS[0] / max(abs(slope), least, 1e-30)
        return Comparison(*compare(slope, differences, _RELATIVE_STEPS, least), resolution)

    def _product(self, gradient: Array, v: Array) -> float:
        ops = self.subject.ops
        wide = "float64" if ops.dtype(gradient) == "float64" else "float32"
        return self.subject.number(self.subject.total(ops.astype(gradient, wide) * ops.astype(v, wide))) / self.scale

    def _length(self, array: Array) -> float:
        """The root of the mean square, 0.1 for zeros."""
        return self.subject.length(array) / math.sqrt(max(1, math.prod(self.subject.ops.shape(array)))) or 0.1

    def _is_missing(self, gradient: Array | None) -> bool:
        return gradient is None or self.subject.length(gradient) == 0
