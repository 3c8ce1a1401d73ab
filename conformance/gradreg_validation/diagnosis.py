"""Names the mistake in the first layer that differs, if trying it makes the difference vanish."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gradreg_validation.arrays import Pair, align, relative
from gradreg_validation.descriptions import describe
from gradreg_validation.emulation import emulate
from gradreg_validation.explaining import Explanation, explanations, simple_explanations
from gradreg_validation.known import Facts, Known
from gradreg_validation.layer import Layer, Mistake
from gradreg_validation.layer_pairs import owning
from gradreg_validation.mistakes import mistakes
from gradreg_validation.recording import Step
from gradreg_validation.relating import relation
from gradreg_validation.rows import label_of
from gradreg_validation.sides import WHICH, Sides

__all__ = ["Diagnosis"]

_WITHIN = 100.0
"""Unit roundoffs up to which an array that is recomputed in float64 counts as equal to a framework's in float32."""
_GAIN = 8.0
"""The factor by which the difference must fall when the mistake is tried."""


@dataclass
class Diagnosis:
    """The paired layers of two models, and which of them agree."""

    sides: Sides
    pairs: Sequence[Pair]
    agrees: dict[str, bool]
    """By the label of the pair; a layer that could not be compared is left out."""

    def __post_init__(self) -> None:
        self.within = _WITHIN * self.sides.u
        self.steps = [{name: step for step in self.sides.steps(i) for name in step.outputs} for i in (0, 1)]
        inputs = [
            Known(
                f"x[{path!r}]" if path else "the input", array.astype(np.float64) if array.dtype.kind == "f" else array
            )
            for path, array in self._inputs().items()
        ]
        masks = [
            Known("x" if one.label == "the input" else one.label, one.array.astype(np.float64))
            for one in inputs
            if one.array.ndim > 1 and bool(np.isin(one.array, (0, 1)).all())
        ]
        self.turns: dict[int, Sequence[int] | None] = {}
        """By the number of axes: how an array of the second model is brought into the first's order."""
        self.facts = [Facts(inputs, [], masks, self._constants()) for _ in (0, 1)]

    def _inputs(self) -> dict[str, np.ndarray]:
        """The batch in the first model's layout."""
        x, axes = self.sides.x, self.sides.pair[0].axes
        return x if axes is None or callable(axes) or list(x) != [""] else {"": np.transpose(x[""], tuple(axes))}

    def _constants(self) -> list[Known]:
        """The parameters of the first model that no layer of a known kind owns."""
        layers = list(self.steps[0])
        values = self.sides.pair[0].values
        known = {name for name, step in self.steps[0].items() if _is_known(step)}
        free = [name for name, array in values.items() if 0 < array.ndim <= 4 and owning(layers, name) not in known]
        return [Known(f"the parameter {name}", values[name].astype(np.float64)) for name in free[:8]]

    def hint(self, path: str, outputs: Sequence[np.ndarray]) -> str:
        """A sentence on the first layer that differs, or on what follows the last one; empty if nothing is confirmed.

        Args:
            path: of the output that differs; "" for the only one.
            outputs: the output of the first model and of the second.
        """
        for pair in self.pairs:
            agrees = self.agrees.get(label_of(pair))
            if agrees is None:
                continue
            first, second = (self.steps[i][name] for i, name in enumerate(pair.names))
            results = [step.outputs[name] for step, name in zip((first, second), pair.names, strict=True)]
            if not agrees:
                return self._of_layer(pair, (first, second), [pair.applied(i, y) for i, y in enumerate(results)])
            self._learn(pair, (first, second), results)
        label = f"outputs[{path!r}]" if path else "the output"
        return self._between(label, outputs) or self._related(label, outputs)

    def _learn(self, pair: Pair, steps: tuple[Step, Step], results: Sequence[np.ndarray]) -> None:
        """Add the input and the output of a layer that agrees to the known arrays."""
        one, two = (_main_input(step) for step in steps)
        if one is not None and two is not None and _aligned(two, one) <= self.within:
            new = not any(_equal(one, known.array, self.within) for known in self.facts[0].all())
            if new:
                self._know(f"the input of {pair.names[0]}", (one, two))
        plain = [i for i in (0, 1) if pair.forms[i] is not None]
        if plain:  # one model has the result before its activation, which is then as good as known in both
            before = results[plain[0]]
            self._know(pair.names[0], (before, before) if plain[0] == 0 else (self._laid_out(before, results[0]),) * 2)
        else:
            self._know(pair.names[0], (results[0], results[1]))

    def _know(self, label: str, arrays: tuple[np.ndarray, np.ndarray]) -> None:
        """An array that both have, and by it the order of axes of such arrays; square images do not tell it."""
        turn, difference = align(arrays[1], arrays[0], None, True, batch=True)
        if difference <= self.within and not callable(turn):
            self.turns[arrays[0].ndim] = turn
        self.facts[0].layers.append(Known(label, arrays[0]))
        self.facts[1].layers.append(Known(label, self._laid_out(arrays[1], arrays[0])))

    def _of_layer(self, pair: Pair, steps: tuple[Step, Step], arrays: Sequence[np.ndarray]) -> str:
        inputs, label = [_main_input(step) for step in steps], pair.names[0]
        both = [array for array in inputs if array is not None]
        difference = _aligned(both[1], both[0]) if len(both) == 2 else 0.0
        if self.within < difference < np.inf:
            return (
                self._between(f"the input of {label}", both)
                or self._related(f"the input of {label}", both)
                or f" Its inputs differ already, by {difference:.1e}: the cause lies between it and the layers before."
            )
        for i in (0, 1):
            if (x := inputs[i]) is not None and steps[i].layer is not None:
                text = self._emulated(i, pair, steps[i], x, arrays) or self._through(i, pair, steps[i], x, arrays, both)
                if text:
                    return text
        if len(both) == 2 and (text := self._numbers(pair, steps, both, arrays)):
            return text
        if len(both) == 2 and np.isinf(difference) and (text := self._between(f"the input of {label}", both)):
            return text
        if len(both) == 2:
            self._know("its input", (both[0], both[1]))
        text = self._between(label, arrays) or self._related(label, arrays)
        if not text and np.isinf(_aligned(arrays[1], arrays[0])):
            return f" It gives the shapes {arrays[0].shape} and {arrays[1].shape}."
        return text

    def _between(self, label: str, targets: Sequence[np.ndarray]) -> str:
        """A sentence on the function that each model computes there, if both have a name and the names differ."""
        second = self._laid_out(targets[1], targets[0])
        sets = [
            explanations(target, facts, self.within)
            for target, facts in zip((targets[0], second), self.facts, strict=True)
        ]
        for i, target in enumerate((targets[0], second)):
            if not sets[i] and sets[1 - i] and (facts := self._with_own(i)):
                sets[i] = explanations(target, facts, self.within)
        said = [
            _said(matches) if matches else self._alone(i, array)
            for i, (matches, array) in enumerate(zip(sets, (targets[0], second), strict=True))
        ]
        if sets[0] and sets[1] and (_best(sets[0]) in sets[1] or _best(sets[1]) in sets[0]):
            return ""
        if all(said):
            return f" There, {label} is {said[0]} in the first model, and {said[1]} in the second."
        return ""

    def _with_own(self, i: int) -> Facts | None:
        """The known arrays with the results of a model's layers that the other does not have; None without such."""
        paired = {pair.names[i] for pair in self.pairs}
        end = next((pair.names[i] for pair in self.pairs if self.agrees.get(label_of(pair)) is False), None)
        facts, names = self.facts[i], list(self.steps[i])
        before = names[: names.index(end)] if end in names else names
        own = [Known(name, self.steps[i][name].outputs[name]) for name in before if name not in paired]
        laid = [one if i == 0 else Known(one.label, self._laid_out(one.array, one.array)) for one in own]
        return replace(facts, layers=[*facts.layers, *laid]) if laid else None

    def _alone(self, i: int, array: np.ndarray) -> str:
        """The layer of one model, without a counterpart in the other, that gives the array; empty if there is none."""
        paired = {pair.names[i] for pair in self.pairs}
        for name, step in self.steps[i].items():
            own = step.outputs[name]
            if name not in paired and own.dtype.kind == "f" and own.size == array.size:
                laid = own if i == 0 else self._laid_out(own, array)
                if _equal(laid, array, self.within):
                    return f"the result of {name}"
        return ""

    def _related(self, label: str, targets: Sequence[np.ndarray]) -> str:
        """How the second's array follows from the first's."""
        words = relation(targets[0], self._laid_out(targets[1], targets[0]), self.facts[0], self.within)
        return f" There, {label} of the second model {words}." if words else ""

    def _through(
        self, i: int, pair: Pair, step: Step, x: np.ndarray, arrays: Sequence[np.ndarray], both: Sequence[np.ndarray]
    ) -> str:
        """A sentence on the layer's input in the other model, which is not recorded, from the layer that is known."""
        layer = self._described(i, pair, step, x, arrays[i])
        if layer is None or len(both) == 2:
            return ""
        target = self._laid_out(arrays[1 - i], arrays[i])
        own = simple_explanations(x, self.facts[i], self.within)
        others = simple_explanations(target, self.facts[i], self.within, lambda z: emulate(layer, z))
        if not own or not others or _best(own) in others:
            return ""
        said = {i: _said(own), 1 - i: _said(others)}
        return f" There, the input of {pair.names[0]} is {said[0]} in the first model, and {said[1]} in the second."

    def _numbers(
        self, pair: Pair, steps: tuple[Step, Step], inputs: Sequence[np.ndarray], arrays: Sequence[np.ndarray]
    ) -> str:
        """A sentence on parameters that differ, if the first's layer with the second's gives the second's output."""
        layers = [self._described(i, pair, steps[i], inputs[i], arrays[i]) for i in (0, 1)]
        if layers[0] is None or layers[1] is None or layers[0].kind != layers[1].kind:
            return ""
        both = {name: (array, layers[1].params.get(name)) for name, array in layers[0].params.items()}
        differ = {
            name: two
            for name, (one, two) in both.items()
            if two is not None and one.shape == two.shape and relative(one, two) > self.within
        }
        y = emulate(layers[0].with_params(**differ), inputs[0]) if differ else None
        if y is None or _aligned(y, arrays[1]) > self.within:
            return ""
        tied = "".join(
            f" In the {WHICH[i]} model its {name} is that of {owner}."
            for i, name in itertools.product((0, 1), differ)
            for owner in self._owners(i, pair.names[i], layers[i].params[name])
        )
        return (
            f" The two layers differ in their {' and '.join(differ)}; with the second's, the first's layer "
            f"gives the second's output.{tied}"
        )

    def _owners(self, i: int, layer: str, array: np.ndarray) -> list[str]:
        """The parameters outside of a layer that hold the same numbers, as tied ones do."""
        names = list(self.steps[i])
        return [
            name
            for name, value in self.sides.pair[i].values.items()
            if value.ndim > 1 and owning(names, name) != layer and _equal(*_as_one(array, value), self.within)
        ][:1]

    def _described(self, i: int, pair: Pair, step: Step, x: np.ndarray, y: np.ndarray) -> Layer | None:
        """The layer, with the activation that was applied to its result; None if its emulation does not give that."""
        layer = describe(step.layer, x, step)
        if layer is None:
            return None
        if pair.forms[i] is not None:
            layer = replace(layer, activation=pair.forms[i])
        for offset in (0.0, 1.0) if layer.kind == "layer_norm" else (0.0,):
            tried = layer.with_options(scale_offset=offset) if offset else layer
            own = emulate(tried, x)
            if own is not None and own.shape == y.shape and relative(own, y) <= self._within(layer):
                return tried
        return None

    def _emulated(self, i: int, pair: Pair, step: Step, x: np.ndarray, arrays: Sequence[np.ndarray]) -> str:
        layer = self._described(i, pair, step, x, arrays[i])
        if layer is None:
            return ""
        other, before = arrays[1 - i], _aligned(arrays[i], arrays[1 - i])
        mistake, after = self._tried(layer, x, other)
        if mistake is None or not after * _GAIN <= before:
            return ""
        words = mistake.other
        if mistake.fitted:
            words = f"eps={mistake.layer.options['eps']:.2g}"
        said = {i: mistake.own, 1 - i: words}
        was = "the shapes did not fit before" if np.isinf(before) else f"before {before:.1e}"
        return (
            f" In the first model: {said[0]}; in the second: {said[1]}. So changed, the {WHICH[i]}'s layer gives the "
            f"{WHICH[1 - i]}'s output (difference {after:.1e}, {was})."
        )

    def _within(self, layer: Layer) -> float:
        """The bound for a layer: attention in float64 is computed in float32 in part by Keras, JAX and Flax."""
        return max(self.within, _WITHIN * 2.0**-24) if layer.kind == "attention" else self.within

    def _laid_out(self, array: np.ndarray, like: np.ndarray) -> np.ndarray:
        """The second model's array with its axes in the first's order: as in earlier layers, or else the best."""
        turn = self.turns.get(array.ndim)
        if turn is None and array.ndim == like.ndim > 1:
            best = align(array, like, None, True, batch=True)[0]
            turn = None if callable(best) else best
        return array if turn is None else np.transpose(array, tuple(turn))

    def _tried(self, layer: Layer, x: np.ndarray, other: np.ndarray) -> tuple[Mistake | None, float]:
        """The mistake that gives the other's output, and the difference then."""
        best: tuple[Mistake | None, float] = (None, np.inf)
        closest: tuple[Mistake | None, float] = (None, np.inf)
        for mistake in mistakes(layer, x):
            y = emulate(mistake.layer, x)
            difference = np.inf if y is None else _aligned(y, other)
            if mistake.fitted:
                closest = min(closest, (mistake, difference), key=lambda item: item[1])
            elif difference <= self._within(layer) and difference * 4 < best[1]:
                best = (mistake, difference)
        if best[0] is None and closest[0] is not None:
            best = _refined(closest[0], closest[1], x, other)
        return best if best[1] <= self._within(layer) else (None, np.inf)


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


def _best(matches: dict[str, Explanation]) -> str:
    """The shortest of the explanations that are as good as the best."""
    bound = max(2 * min(match.error for match in matches.values()), 1e-9)
    return min((match.words for match in matches.values() if match.error <= bound), key=len)


def _said(matches: dict[str, Explanation]) -> str:
    """The best explanation, and one as short that gives the same here, as relu and relu6 may."""
    best = _best(matches)
    error = matches[best].error
    alike = [other.words for other in matches.values() if abs(other.error - error) <= 1e-3 * error + 1e-12]
    others = [words for words in alike if words != best and len(words) <= len(best) + 1]
    return f"{best} (or {others[0]}, the same here)" if others else best


def _equal(first: np.ndarray, second: np.ndarray, within: float) -> bool:
    return first.shape == second.shape and relative(first, second) <= within


def _as_one(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The second turned to the first's shape, where it is its transpose."""
    turned = second.ndim == 2 and first.shape == second.T.shape and (first.shape != second.shape or first.size == 1)
    return first, second.T if turned else second


def _is_known(step: Step) -> bool:
    x = _main_input(step)
    return x is not None and describe(step.layer, x, step) is not None


def _main_input(step: Step) -> np.ndarray | None:
    return next(iter(step.inputs.values()), None)


def _aligned(array: np.ndarray, other: np.ndarray) -> float:
    """The relative difference under the best permutation of axes; infinite if the shapes do not fit."""
    difference = align(array, other, None, True, batch=True)[1]
    return float(np.inf if np.isnan(difference) else difference)
