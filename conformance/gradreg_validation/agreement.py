"""Whether two models, of one framework or two, compute the same penalty and the same gradients.

The unit is the roundoff that the computation itself allows: the median change of a quantity when the inputs and the
parameters move by one unit in the last place. A badly conditioned model is so given the room that it needs, and a well
conditioned one no more.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from gradreg_core.errors import GradregError, InputError, InputTypeError
from gradreg_core.fields import Integer, Number
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_validation.arrays import Match, Names, Pair, align, pairs, relative
from gradreg_validation.cause import INPUT, LOSS, OUTPUTS, PARAMETER, PENALTY, VALUES, cause_of, hint_for
from gradreg_validation.models import Arrays, Evaluation, Problem, Side, find_name, make_side
from gradreg_validation.report import Agreement, Row

__all__ = ["TOLERANCE", "Agreement", "Row", "validate"]

TOLERANCE = 8.0
"""The ratio up to which two results agree. Right ports gave 0 to 3.6 times the measured roundoff, wrong ones from 200
(the two forms of GELU) to 5e5, so the verdict does not hang on the exact value."""
_FLOOR = 2.0
"""Unit roundoffs that are always allowed: perturbing the inputs does not show the roundings inside a linear map."""
_RANDOM = 1e3
"""Unit roundoffs by which two calls of a model may differ before it counts as random; some GPU sums are reordered."""


def validate(
    first: Any,
    second: Any,
    x: Any,
    y: Any = None,
    reg: Regularizer | None = None,
    *,
    backends: tuple[str | None, str | None] = (None, None),
    parameters: Names | None = None,
    layers: Names | None = None,
    inputs: tuple[Any, Any] = (None, None),
    activations: tuple[Any, Any] = (None, None),
    transpose: bool = True,
    step: int = 0,
    loss_fn: Any = None,
    class_axis: int | tuple[int | None, int | None] | None = None,
    seed: int = 0,
    repeats: int = 5,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Compare outputs, loss, penalties and gradients of a model and its port on one batch.

    Both models get the same x, in float32, or in float64 where their parameters are; random regularizers draw the same
    in every framework. Neither model is changed. Put layers that behave otherwise in training into evaluation mode.

    Args:
        first: a model: a `torch.nn.Module`, a Keras model, a Flax NNX or Equinox module, a pair (fn, params) with
            ``fn(params, x)`` for JAX, or a function of x, whose parameters cannot be reached.
        second: the other model.
        x: the input, a floating-point NumPy array (B, ...).
        y: labels, if the loss is compared too.
        reg: the regularizer; the default is ``SpectReg(1.0)``, and ``+ DataGrad(1.0)`` with labels.
        backends: the framework of each model, "torch", "jax" or "tensorflow", where its type does not tell.
        parameters: names in the first model -> names in the second, a dict or a list of pairs. A third element says how
            the first array is turned into the second: a permutation of its axes, a dict such as
            ``{"reshape": (4, 4, 8, 10), "axes": (3, 2, 0, 1)}`` (reshaped, its axes permuted, then reshaped to the
            second's shape), or a function that only rearranges its elements. A name may be shortened to an ending that
            is unique. The default is the names that both have, with equal shapes.
        layers: pairs of names of activations, or names that both have, in the order of computation, with a third
            element as in `parameters`; the default is the names that both have.
        inputs: for each model what turns x into its input: a permutation of axes, or a function of the framework's own
            array. Gradients are with respect to x before it.
        activations: for each model without named layers a list of stages (name, fn), each a function of the one before,
            or a function of x that returns a dict of activations. For a JAX model whose parameters are reached, they
            take these (or the module) before x.
        transpose: where `parameters` or `layers` name no rearrangement, take the permutation of the axes under which
            the arrays agree best. False: none.
        step: of training, for the draws and schedules.
        loss_fn: the loss of each sample, ``loss_fn(outputs, y)``, or a pair, one for each framework.
        class_axis: the axis of the outputs that holds the classes, or a pair.
        seed: of the perturbations.
        repeats: perturbations, of which the median is taken.
        tolerance: the largest ratio to the measured roundoff that counts as agreement.

    Returns:
        An :class:`Agreement`: ``print(report)`` is a table, ``report.ok`` the verdict, ``report.cause`` what is wrong.

    Raises:
        InputError: an argument does not fit, a model fails on the batch, or it is random.
        InputTypeError: x is no floating-point array, or reg no regularizer.
        UnsupportedError: a model is of another framework, or in half precision.
    """
    x, y = _batch(x, y)
    Integer(minimum=1)("validate", "repeats", repeats)
    Number(minimum=0, open_minimum=True)("validate", "tolerance", tolerance)
    reg = _regularizer(reg, y)
    axes = class_axis if isinstance(class_axis, tuple) else (class_axis, class_axis)
    losses = loss_fn if isinstance(loss_fn, tuple | list) else (loss_fn, loss_fn)
    names, sides = [], []
    for i, model in enumerate((first, second)):
        options = {"step": step, "class_axis": axes[i], "loss_fn": losses[i]}
        with _blame(_WHICH[i]):
            name, side = make_side(
                model, backends[i], Problem(y, reg, options), axes=inputs[i], activations=activations[i]
            )
        names.append(name)
        sides.append(side)
    comparison = _Comparison(sides, names, x, axes, tolerance, transpose)
    with ExitStack() as stack:
        for side in sides:
            stack.enter_context(side.kept())
        return comparison.run(parameters, layers, np.random.default_rng(seed), repeats, _draws(reg, step))


_WHICH = ("first", "second")


class _Comparison:
    """Both models on one batch."""

    def __init__(
        self, sides: Sequence[Side], names: Sequence[str], x: np.ndarray, axes: Any, tolerance: float, transpose: bool
    ) -> None:
        self.sides, self.names, self.axes = sides, names, axes
        self.tolerance, self.transpose = tolerance, transpose
        self.dtype = "float32" if any(side.dtype == "float32" for side in sides) else "float64"
        self.u = float(np.finfo(self.dtype).eps) / 2
        self.x = x.astype(self.dtype)
        self.notes: list[str] = []
        self.measured = 1 if not sides[0].values and sides[1].values else 0

    def run(
        self, parameters: Names | None, layers: Names | None, rng: np.random.Generator, repeats: int, draws: str
    ) -> Agreement:
        """The whole comparison."""
        matches = self._matched(parameters)
        pairs = self._layer_pairs(layers)
        found = [self._evaluate(i) for i in (0, 1)]
        moved = [self._moved(rng) for _ in range(repeats)]
        rows = self._value_rows(matches) + self._rows(matches, found, moved)
        layer_rows = self._layer_rows(pairs, moved)
        diverging = next((i for i, row in enumerate(layer_rows) if not row.agrees), None)
        self._note_warnings(matches)
        left_out = [] if parameters is None else self._unmatched(matches)
        cause = cause_of(rows, self._differing(matches), left_out)
        if cause and diverging is not None:
            cause += self._hint(layer_rows[diverging].quantity)
        return Agreement(
            backends=(self.names[0], self.names[1]),
            dtype=self.dtype,
            rows=tuple(rows),
            layers=tuple(layer_rows),
            first_divergence=None if diverging is None else layer_rows[diverging].quantity,
            cause=cause,
            notes=tuple(self.notes),
            tolerance=float(self.tolerance),
            unit=self._unit(repeats),
            draws=draws,
            versions=_versions(self.names),
        )

    # --- what is computed --------------------------------------------------------------------------------------------
    def _evaluate(self, i: int) -> Evaluation:
        """One model's results, from two calls that must be equal."""
        side, label = self.sides[i], self._label(i)
        with _blame(label):
            found = side.evaluate(self.x.astype(side.dtype), {})
            again = side.evaluate(self.x.astype(side.dtype), {})
        if relative(found.outputs, again.outputs) > _RANDOM * self.u:
            raise InputError(
                f"validate: the {label} model is random: two calls on the same batch differ. Put it into evaluation "
                f"mode, or give it a fixed dropout mask."
            )
        return found

    def _label(self, i: int) -> str:
        return f"{_WHICH[i]} ({self.names[i]})"

    def _moved(self, rng: np.random.Generator) -> tuple[np.ndarray, Arrays]:
        """The input and the parameters of the measured model, moved by one unit in the last place."""
        side = self.sides[self.measured]
        values = {name: self._shaken(value, rng) for name, value in side.values.items()}
        return self._shaken(self.x.astype(side.dtype), rng), values

    def _shaken(self, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        sign = rng.choice([-1.0, 1.0], size=value.shape)
        if np.finfo(value.dtype).eps / 2 == self.u:
            moved = np.nextafter(value, (np.inf * sign).astype(value.dtype))
        else:
            moved = value * (1 + 2 * self.u * sign)
        return np.asarray(np.where(np.isfinite(value) & (value != 0), moved, value), value.dtype)

    def _quantities(self, i: int, found: Evaluation, matches: Sequence[Match]) -> Arrays:
        """What is compared, by the name of its row, in the second model's layout."""
        axis = self.axes[i]
        outputs = found.outputs if axis is None else np.moveaxis(found.outputs, axis, -1)
        quantities = {OUTPUTS: outputs}
        if found.loss is not None:
            quantities[LOSS] = found.loss
        for term, penalty in zip(self.sides[i].problem.reg.terms, found.penalties, strict=True):
            label = f"{PENALTY}{term!r}"
            quantities[f"{label} #{len(quantities)}" if label in quantities else label] = penalty
        quantities |= {f"{INPUT}{name}": each for name, each in found.by_input.items()}
        for name, gradients in found.by_parameter.items():
            if name == "total":
                continue
            parts = [
                match.rearrange(gradients[match.first]) if i == 0 else gradients[match.second] for match in matches
            ]
            if parts:
                quantities[f"{PARAMETER}{name}"] = np.concatenate([np.ravel(each) for each in parts])
        return quantities

    # --- rows --------------------------------------------------------------------------------------------------------
    def _row(self, name: str, difference: float, changes: Sequence[float]) -> Row:
        roundoff = max(float(np.median(changes)) if len(changes) else 0.0, _FLOOR * self.u)
        ratio = difference / roundoff
        return Row(name, difference, roundoff, ratio, bool(ratio <= self.tolerance))

    def _rows(
        self, matches: Sequence[Match], found: Sequence[Evaluation], moved: Sequence[tuple[np.ndarray, Arrays]]
    ) -> list[Row]:
        trained = [set(each.by_parameter["penalty"]) for each in found]
        both = [each for each in matches if each.first in trained[0] and each.second in trained[1]]
        frozen = [each.first for each in matches if each not in both]
        if frozen:
            self.notes.append(f"compared in value only, because one of the models does not train it: {_list(frozen)}")
        first, second = (self._quantities(i, each, both) for i, each in enumerate(found))
        base = (first, second)[self.measured]
        side = self.sides[self.measured]
        with _blame(self._label(self.measured)):
            shaken = [self._quantities(self.measured, side.evaluate(*each), both) for each in moved]
        return [
            self._row(name, relative(first[name], second[name]), [relative(each[name], base[name]) for each in shaken])
            for name in first
        ]

    def _value_rows(self, matches: Sequence[Match]) -> list[Row]:
        worst = self._worst(matches)
        return [] if worst is None else [self._row(VALUES, worst.difference, ())]

    # --- parameters --------------------------------------------------------------------------------------------------
    def _matched(self, parameters: Names | None) -> list[Match]:
        if parameters is None:
            one, two = (side.values for side in self.sides)
            parameters = [name for name in one if name in two and one[name].shape == two[name].shape]
        matches = []
        for given in pairs("parameters", parameters):
            names = [self._name(i, "parameter", list(self.sides[i].values), given.names[i]) for i in (0, 1)]
            arrays = [self.sides[i].values[name] for i, name in enumerate(names)]
            how, difference = align(arrays[0], arrays[1], given.how, self.transpose)
            if math.isnan(difference):
                raise InputError(
                    f"validate: {names[0]!r} of shape {arrays[0].shape} cannot be the {names[1]!r} of shape "
                    f"{arrays[1].shape}; correct the map of parameters, or give a function that rearranges the first."
                )
            matches.append(Match(names[0], names[1], how, difference))
        return matches

    def _name(self, i: int, what: str, known: list[str], wanted: str) -> str:
        found = find_name(known, wanted)
        if found is None:
            raise InputError(
                f"validate: the {self._label(i)} model has no {what} {wanted!r}, or several that end so; "
                f"it has {_list(known)}."
            )
        return found

    def _worst(self, matches: Sequence[Match]) -> Match | None:
        return max(matches, key=lambda each: each.difference, default=None)

    def _differing(self, matches: Sequence[Match]) -> str:
        """The parameters that differ most, in words."""
        worst = self._worst(matches)
        if worst is None:
            return ""
        turned = "" if worst.how is None or callable(worst.how) else f" compared with axes {tuple(worst.how)},"
        return f"{worst.first!r} and {worst.second!r},{turned} by {worst.difference:.1e}"

    def _unmatched(self, matches: Sequence[Match]) -> list[str]:
        """The parameters of either model that have no counterpart."""
        known = ({each.first for each in matches}, {each.second for each in matches})
        left = [[name for name in side.values if name not in known[i]] for i, side in enumerate(self.sides)]
        return [f"{_list(names)} of the {self._label(i)}" for i, names in enumerate(left) if names]

    def _note_warnings(self, matches: Sequence[Match]) -> None:
        for i, side in enumerate(self.sides):
            self.notes += [f"the {self._label(i)} model has {each}" for each in side.warnings()]
        unmatched = self._unmatched(matches)
        self.notes += [f"not compared: {each}" for each in unmatched]
        if unmatched and not matches:
            self.notes.append(
                "no gradient of a parameter was compared, so a weight that is detached would not be seen: give "
                "parameters= (--parameters), the names in the first model and in the second"
            )

    # --- layers ------------------------------------------------------------------------------------------------------
    def _layer_pairs(self, layers: Names | None) -> list[Pair]:
        known = [side.layer_names for side in self.sides]
        if layers is None:
            return [Pair((name, name), None) for name in known[0] if name in known[1]]
        return [
            Pair((self._layer(0, each.names[0]), self._layer(1, each.names[1])), each.how)
            for each in pairs("layers", layers)
        ]

    def _layer(self, i: int, wanted: str) -> str:
        side = self.sides[i]
        return wanted if callable(side.stages) else self._name(i, "layer", side.layer_names, wanted)

    def _activations(self, i: int, pairs: Sequence[Pair], x: np.ndarray, changed: Arrays) -> Arrays:
        with _blame(self._label(i)):
            return self.sides[i].activations(x, changed, list(dict.fromkeys(pair.names[i] for pair in pairs)))

    def _layer_rows(self, pairs: Sequence[Pair], moved: Sequence[tuple[np.ndarray, Arrays]]) -> list[Row]:
        if not pairs:
            return []
        found = [self._activations(i, pairs, self.x.astype(side.dtype), {}) for i, side in enumerate(self.sides)]
        shaken = [self._activations(self.measured, pairs, *each) for each in moved]
        rows = []
        for pair in pairs:
            label = pair.names[0] if pair.names[0] == pair.names[1] else " ~ ".join(pair.names)
            missing = [self._label(i) for i in (0, 1) if pair.names[i] not in found[i]]
            if missing:
                self.notes.append(f"layer {label}: no activation in the {' and '.join(missing)} model")
                continue
            first, second = (found[i][pair.names[i]] for i in (0, 1))
            difference = align(first, second, pair.how, self.transpose, batch=True)[1]
            if math.isnan(difference):
                self.notes.append(f"layer {label}: shapes {first.shape} and {second.shape}, not compared")
                continue
            own, base = pair.names[self.measured], (first, second)[self.measured]
            rows.append(self._row(label, difference, [relative(each[own], base) for each in shaken]))
        return rows

    def _hint(self, quantity: str) -> str:
        """What the kind of the first diverging layer is often ported wrongly in."""
        names = quantity.split(" ~ ")
        kinds = [side.layer_kinds.get(name, "") for side, name in zip(self.sides, (names[0], names[-1]), strict=True)]
        return f" The first layer that differs is {quantity}.{hint_for([*names, *kinds])}"

    def _unit(self, repeats: int) -> str:
        side = self.sides[self.measured]
        moved = "input and parameters" if side.values else "input alone (the parameters cannot be reached)"
        return (
            f"the median relative change over {repeats} perturbations of the {moved} by one unit in the last place of "
            f"{self.dtype}, measured in the {self._label(self.measured)} model, and at least {_FLOOR:g} unit roundoffs"
        )


# --- arguments -------------------------------------------------------------------------------------------------------
def _batch(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray | None]:
    x = np.asarray(x)
    if not np.issubdtype(x.dtype, np.floating):
        raise InputTypeError(f"validate: x must be a floating-point array, got {x.dtype}; convert and scale it first.")
    if x.ndim == 0 or not len(x):
        raise InputError(f"validate: x must have a batch axis with at least one sample, got shape {x.shape}.")
    return x, None if y is None else np.asarray(y)


def _regularizer(reg: Any, y: Any) -> Regularizer:
    if reg is None:
        return SpectReg(1.0) if y is None else SpectReg(1.0) + DataGrad(1.0)
    if not isinstance(reg, Regularizer):
        raise InputTypeError(f"validate: reg must be a regularizer such as SpectReg(0.01), got {reg!r}.")
    return reg


@contextmanager
def _blame(label: str) -> Iterator[None]:
    """Errors say which of the two models they come from."""
    try:
        yield
    except GradregError as error:
        raise type(error)(f"validate: the {label} model: {error}") from error
    except Exception as error:
        raise InputError(f"validate: the {label} model raised {type(error).__name__}: {error}") from error


def _list(names: Sequence[str], limit: int = 12) -> str:
    return ", ".join(map(repr, names[:limit])) + (", ..." if len(names) > limit else "") if names else "none"


def _draws(reg: Regularizer, step: int) -> str:
    seeds = sorted({seed for term in reg.terms if (seed := getattr(term, "seed", None)) is not None})
    return f"step {step}" + (f", seed {', '.join(map(str, seeds))}" if seeds else "")


def _versions(names: Sequence[str]) -> dict[str, str]:
    modules = list(dict.fromkeys([*names, "keras", "numpy"] if "tensorflow" in names else [*names, "numpy"]))
    return {name: str(sys.modules[name].__version__) for name in modules if name in sys.modules}
