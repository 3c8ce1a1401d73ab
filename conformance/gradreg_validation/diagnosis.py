"""Names the mistake in the first layer that differs, if trying it makes the difference vanish."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradreg_validation.arrays import Pair, align, relative
from gradreg_validation.descriptions import describe
from gradreg_validation.emulation import emulate
from gradreg_validation.explaining import Explanation, Known, explanations
from gradreg_validation.layer import Layer
from gradreg_validation.mistakes import Mistake, mistakes
from gradreg_validation.recording import Step
from gradreg_validation.sides import WHICH, Sides

__all__ = ["Diagnosis"]

_WITHIN = 100.0
"""Unit roundoffs up to which an array that is recomputed in float64 counts as that of a framework in float32."""
_GAIN = 8.0
"""The difference must fall at least so many times when the mistake is tried."""


@dataclass
class Diagnosis:
    """The paired layers of two models, and which of them agree."""

    sides: Sides
    pairs: Sequence[Pair]
    agrees: dict[str, bool]
    """By the name of the layer in the first model; a layer that could not be compared is left out."""

    def __post_init__(self) -> None:
        self.within = _WITHIN * self.sides.u
        self.steps = [{name: step for step in self.sides.steps(i) for name in step.outputs} for i in (0, 1)]
        arrays = self.sides.x
        self.masks = [
            Known(f"x[{path!r}]" if path else "x", array.astype(np.float64))
            for path, array in arrays.items()
            if array.ndim > 1 and bool(np.isin(array, (0, 1)).all())
        ]

    def hint(self, outputs: Sequence[np.ndarray]) -> str:
        """A sentence on the first layer that differs, or on what follows the last one; empty if nothing is confirmed.

        Args:
            outputs: of the first model and of the second.
        """
        known: tuple[list[Known], list[Known]] = ([], [])
        for path, array in self.sides.x.items():
            for side in known:
                side.append(Known(f"x[{path!r}]" if path else "the input", array))
        for pair in self.pairs:
            agrees = self.agrees.get(pair.names[0])
            if agrees is None:
                continue
            first, second = (self.steps[i][name] for i, name in enumerate(pair.names))
            arrays = [step.outputs[name] for step, name in zip((first, second), pair.names, strict=True)]
            if not agrees:
                return self._of_layer(pair, (first, second), arrays, known)
            label = pair.names[0]
            known[0].append(Known(label, arrays[0]))
            known[1].append(Known(label, _laid_out(arrays[1], arrays[0])))
        return self._between("the outputs", outputs, known)

    def _of_layer(
        self, pair: Pair, steps: tuple[Step, Step], arrays: Sequence[np.ndarray], known: tuple[list[Known], list[Known]]
    ) -> str:
        inputs = [_main_input(step) for step in steps]
        if inputs[0] is not None and inputs[1] is not None:
            difference = _aligned(inputs[1], inputs[0])
            if np.isfinite(difference) and difference > self.within:
                text = self._between(f"the input of {pair.names[0]}", [inputs[0], inputs[1]], known)
                return text or (
                    f" Its inputs differ already, by {difference:.1e}: the cause lies between it and the layers before."
                )
        for i in (0, 1):
            if (x := inputs[i]) is not None and steps[i].layer is not None:
                text = self._emulated(i, steps[i], x, arrays)
                if text:
                    return text
        if inputs[0] is not None and inputs[1] is not None:
            known[0].append(Known("its input", inputs[0]))
            known[1].append(Known("its input", _laid_out(inputs[1], inputs[0])))
        return self._between(pair.names[0], arrays, known)

    def _between(self, label: str, targets: Sequence[np.ndarray], known: tuple[list[Known], list[Known]]) -> str:
        """What each model computes there, if both have a name and the names differ."""
        second = _laid_out(targets[1], targets[0])
        sets = [
            explanations(target, side, self.masks, self.within)
            for target, side in zip((targets[0], second), known, strict=True)
        ]
        best = [_best(matches) for matches in sets]
        if best[0] is None or best[1] is None:
            return ""
        if best[0].words in sets[1] or best[1].words in sets[0]:
            return ""
        return f" There, {label} is {best[0].words} in the first model, and {best[1].words} in the second."

    def _emulated(self, i: int, step: Step, x: np.ndarray, arrays: Sequence[np.ndarray]) -> str:
        layer = describe(step.layer, x)
        own = None if layer is None else emulate(layer, x)
        if layer is None or own is None or own.shape != arrays[i].shape or relative(own, arrays[i]) > self.within:
            return ""
        other, before = arrays[1 - i], _aligned(arrays[i], arrays[1 - i])
        mistake, after = self._tried(layer, x, other)
        if mistake is None or not after * _GAIN <= before:
            return ""
        words = mistake.other
        if mistake.fitted:
            words = f"eps={mistake.layer.options['eps']:.2g}"
        said = {i: mistake.own, 1 - i: words}
        return (
            f" In the first model: {said[0]}; in the second: {said[1]}. So changed, the {WHICH[i]}'s layer gives the "
            f"{WHICH[1 - i]}'s output (difference {after:.1e}, before {before:.1e})."
        )

    def _tried(self, layer: Layer, x: np.ndarray, other: np.ndarray) -> tuple[Mistake | None, float]:
        """The mistake that gives the other's output, and the difference then."""
        best: tuple[Mistake | None, float] = (None, np.inf)
        closest: tuple[Mistake | None, float] = (None, np.inf)
        for mistake in mistakes(layer, x):
            y = emulate(mistake.layer, x)
            difference = np.inf if y is None else _aligned(y, other)
            if mistake.fitted:
                closest = min(closest, (mistake, difference), key=lambda item: item[1])
            elif difference <= self.within and difference * 4 < best[1]:
                best = (mistake, difference)
        if best[0] is None and closest[0] is not None:
            best = _refined(closest[0], closest[1], x, other)
        return best if best[1] <= self.within else (None, np.inf)


def _refined(mistake: Mistake, difference: float, x: np.ndarray, other: np.ndarray) -> tuple[Mistake, float]:
    """The eps near a fitted one that comes closest."""
    step = 10**0.25
    for _ in range(24):
        eps = mistake.layer.options["eps"]
        for factor in (step, 1 / step):
            layer = mistake.layer.with_options(eps=eps * factor)
            y = emulate(layer, x)
            if y is not None and (closer := _aligned(y, other)) < difference:
                mistake, difference = Mistake(mistake.own, mistake.other, layer, fitted=True), closer
        step = step**0.5
    return mistake, difference


def _best(matches: dict[str, Explanation]) -> Explanation | None:
    return min(matches.values(), key=lambda match: match.error, default=None)


def _main_input(step: Step) -> np.ndarray | None:
    return next(iter(step.inputs.values()), None)


def _aligned(array: np.ndarray, other: np.ndarray) -> float:
    """The relative difference under the best permutation of axes; infinite if the shapes do not fit."""
    difference = align(array, other, None, True, batch=True)[1]
    return float(np.inf if np.isnan(difference) else difference)


def _laid_out(array: np.ndarray, like: np.ndarray) -> np.ndarray:
    """The array with its axes in the order of `like`'s, if that can be told; else as it is."""
    if array.ndim != like.ndim or array.ndim < 2:
        return array
    turn, difference = align(array, like, None, True, batch=True)
    if np.isnan(difference) or turn is None or callable(turn):
        return array
    return np.transpose(array, tuple(turn))
