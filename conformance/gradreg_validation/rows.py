"""The rows of a report: differences between the models in units of the roundoff that the computation allows.

The unit is the median change of a quantity when the inputs and the parameters move by one unit in the last place. So a
badly conditioned model gets the room that it needs, and a well conditioned one no more.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from gradreg_core.errors import InputError
from gradreg_validation.arrays import Match, Pair, align, relative
from gradreg_validation.batch import Arrays
from gradreg_validation.cause import INPUT, LOSS, OUTPUTS, PARAMETER, PENALTY, VALUES
from gradreg_validation.matching import list_names, worst
from gradreg_validation.models import Evaluation
from gradreg_validation.report import Row
from gradreg_validation.sides import Sides, blame

__all__ = ["Measurement", "label_of", "same_outputs"]

_NEGLIGIBLE = 64.0
"""Unit roundoffs up to which a gradient counts as zero, as that of a penalty of a piecewise linear network is."""
_ROUGH = 1e-3
"""A roundoff beyond which a quantity is hardly compared."""
_FLOOR = 2.0
"""Unit roundoffs that are always allowed: perturbing the inputs does not show the roundings inside a linear map."""


def same_outputs(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """The evaluations with the outputs of the second named as the first's, in their order, where the names differ.

    Raises:
        InputError: one model returns more arrays than the other.
    """
    first, second = evaluations
    one, two = list(first.outputs), list(second.outputs)
    if len(one) != len(two):
        raise InputError(
            f"validate: the first model returns {len(one)} floating-point arrays {one}, the second {len(two)} {two}. "
            f"Say which are compared: outputs=(path in the first, path in the second)."
        )
    if set(one) == set(two):
        return [first, second]
    return [first, replace(second, outputs=dict(zip(one, second.outputs.values(), strict=True)))]


def _goal(name: str, evaluation: Evaluation) -> float:
    """The size of the scalar of that name."""
    loss = 0.0 if evaluation.loss is None else abs(float(evaluation.loss))
    penalty = float(sum(abs(float(penalty)) for penalty in evaluation.penalties))
    outputs = math.sqrt(sum(float(np.sum(np.abs(array) ** 2)) for array in evaluation.outputs.values()))
    return {"loss": loss, "penalty": penalty, "total": loss + penalty, "outputs": outputs}[name]


def label_of(pair: Pair) -> str:
    """The name of a pair of layers in reports."""
    return pair.names[0] if pair.names[0] == pair.names[1] else " ~ ".join(pair.names)


@dataclass
class Measurement:
    """Differences between two models, and the roundoff that is measured on one of them."""

    sides: Sides
    axes: Sequence[int | None]
    """The axis of the outputs that holds the classes, per model."""
    tolerance: float
    transpose: bool
    """Whether permutations of axes are tried."""
    moved: Sequence[tuple[Arrays, Arrays]]
    """Perturbed inputs and parameters of the measured model."""
    notes: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """How the roundoff is measured."""
        i = self.sides.measured
        reached = self.sides.pair[i].values
        changed = "input and parameters" if reached else "input alone (the parameters cannot be reached)"
        return (
            f"the median relative change over {len(self.moved)} perturbations of the {changed} by one unit in the last "
            f"place of {self.sides.dtype}, measured in the {self.sides.label(i)} model, and at least {_FLOOR:g} unit "
            f"roundoffs"
        )

    def quantity_rows(self, matches: Sequence[Match], evaluations: Sequence[Evaluation]) -> list[Row]:
        """The parameters' values, outputs, loss, penalties and gradients."""
        trained = [next(iter(evaluation.by_parameter.values()), {}) for evaluation in evaluations]
        both = [match for match in matches if match.first in trained[0] and match.second in trained[1]]
        frozen = [match.first for match in matches if match not in both]
        if frozen:
            self.notes.append(
                f"compared in value only, because one of the models does not train it: {list_names(frozen)}"
            )
        first, second = (self._quantities(i, evaluation, both) for i, evaluation in enumerate(evaluations))
        measured = self.sides.measured
        with blame(self.sides.label(measured)):
            side = self.sides.pair[measured]
            moved = [self._quantities(measured, side.evaluate(*inputs), both) for inputs in self.moved]
        base = (first, second)[measured]
        zero = self._zero(evaluations, both, (first, second))
        if zero:
            self.notes.append(f"zero up to roundoff in both models: {', '.join(zero)}")
        match = worst(matches)
        values = [] if match is None else [self._row(VALUES, match.difference, ())]
        names = [name for name in first if name in second]
        if alone := [name for name in (*first, *second) if name not in names]:
            self.notes.append(f"not compared, because one side is a file without it: {', '.join(alone)}")
        rows = values + [
            self._row(
                name,
                0.0 if name in zero else relative(first[name], second[name]),
                [relative(arrays[name], base[name]) for arrays in moved],
            )
            for name in names
        ]
        if rough := [f"{row.quantity} by {row.roundoff:.1e}" for row in rows if row.roundoff > _ROUGH]:
            self.notes.append(
                f"hardly compared, because one unit in the last place changes it so much, as a rounding in the model "
                f"does: {', '.join(rough)}. Try another batch, or float64"
            )
        return rows

    def _zero(
        self, evaluations: Sequence[Evaluation], matches: Sequence[Match], quantities: Sequence[Arrays]
    ) -> list[str]:
        """The gradients that are zero up to roundoff, though not all their numbers are: no scale is left to compare at.

        A gradient of the size |goal| / ||variables|| is one under which the goal changes by as much as the variables.
        """
        values = [self.sides.pair[0].values[match.first] for match in matches]
        variables = {INPUT: [self.sides.x[path] for path in self.sides.batch.floating], PARAMETER: values}
        sizes = {kind: math.sqrt(sum(float(np.sum(a**2)) for a in arrays)) for kind, arrays in variables.items()}
        zero = []
        for name in (name for name in quantities[0] if name.startswith((INPUT, PARAMETER)) and name in quantities[1]):
            kind = INPUT if name.startswith(INPUT) else PARAMETER
            goal = max(_goal(name.removeprefix(kind), evaluation) for evaluation in evaluations)
            bound = _NEGLIGIBLE * self.sides.u * goal / sizes[kind] if sizes[kind] else 0.0
            norms = [float(np.linalg.norm(part[name])) for part in quantities]
            if 0 < max(norms) <= bound:
                zero.append(name)
        return zero

    def layer_rows(self, pairs: Sequence[Pair], same: bool) -> tuple[list[Row], dict[str, bool]]:
        """The activations of the paired layers, in order, and which agree by their label.

        Layers whose shapes do not fit have no row. They differ if the next layer does that has one, or the outputs: a
        model may cut off itself what the layer of the other never made.

        Args:
            pairs: the layers.
            same: whether the outputs agree.
        """
        if not pairs:
            return [], {}
        kept = [self.sides.activations(i) for i in (0, 1)]
        measured = self.sides.measured
        moved = [self.sides.activations(measured, *inputs) for inputs in self.moved]
        rows: list[Row] = []
        agrees: dict[str, bool] = {}
        unfit: list[str] = []
        for pair in pairs:
            label = label_of(pair)
            missing = [self.sides.label(i) for i in (0, 1) if pair.names[i] not in kept[i]]
            if missing:
                self.notes.append(f"layer {label}: no activation in the {' and '.join(missing)} model")
                continue
            first, second = (pair.applied(i, kept[i][pair.names[i]]) for i in (0, 1))
            difference = align(first, second, pair.how, self.transpose, batch=True)[1]
            if math.isnan(difference):
                self.notes.append(f"layer {label}: shapes {first.shape} and {second.shape}, not compared")
                unfit.append(label)
                continue
            own, base = pair.names[measured], (first, second)[measured]
            changes = [relative(pair.applied(measured, arrays[own]), base) for arrays in moved]
            rows.append(self._row(label, difference, changes))
            if not rows[-1].agrees:
                agrees |= dict.fromkeys(unfit, False)
            unfit = []
            agrees[label] = rows[-1].agrees
        return rows, agrees if same else agrees | dict.fromkeys(unfit, False)

    def _row(self, name: str, difference: float, changes: Sequence[float]) -> Row:
        roundoff = max(float(np.median(changes)) if len(changes) else 0.0, _FLOOR * self.sides.u)
        ratio = difference / roundoff
        return Row(name, difference, roundoff, ratio, bool(ratio <= self.tolerance))

    def _quantities(self, i: int, evaluation: Evaluation, matches: Sequence[Match]) -> Arrays:
        """The quantities to compare, by the name of their row, in the second model's layout."""
        axis = self.axes[i]
        quantities = {
            f"{OUTPUTS}[{path}]" if path else OUTPUTS: output if axis is None else np.moveaxis(output, axis, -1)
            for path, output in evaluation.outputs.items()
        }
        if evaluation.loss is not None:
            quantities[LOSS] = evaluation.loss
        terms = self.sides.pair[0].problem.terms if evaluation.penalties else ()  # a pair has its first names
        for term, penalty in zip(terms, evaluation.penalties, strict=True):
            label = f"{PENALTY}{term!r}"
            quantities[f"{label} #{len(quantities)}" if label in quantities else label] = penalty
        quantities |= {f"{INPUT}{name}": gradient for name, gradient in evaluation.by_input.items() if gradient.size}
        for name, gradients in evaluation.by_parameter.items():
            if name != "total" and matches:  # the total's gradient is the sum of these
                parts = [
                    match.rearrange(gradients[match.first]) if i == 0 else gradients[match.second] for match in matches
                ]
                quantities[f"{PARAMETER}{name}"] = np.concatenate([np.ravel(part) for part in parts])
        return quantities
