"""Whether two models, of one framework or two, compute the same penalty and the same gradients."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradreg_core.cli.versions import module_version
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.fields import Integer, Number
from gradreg_core.plugins.dispatch import find_backend
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.spec import Regularizer
from gradreg_validation.arrays import Names
from gradreg_validation.cause import cause_of, hint_for
from gradreg_validation.matching import differing, match_parameters, pair_layers, unmatched
from gradreg_validation.models import Problem
from gradreg_validation.opening import make_side
from gradreg_validation.report import Agreement, Row
from gradreg_validation.rows import Measurement
from gradreg_validation.sides import WHICH, Sides, blame

__all__ = ["TOLERANCE", "Agreement", "Row", "validate"]

TOLERANCE = 8.0
"""The ratio up to which two results agree. Right ports gave 0 to 3.6 times the measured roundoff, wrong ones from 200
(the two forms of GELU) to 5e5, so the verdict does not hang on the exact value."""


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

    Both models get the same x, in float32, or in float64 if their parameters are. Neither model is changed. Put layers
    that behave differently in training into evaluation mode.

    Args:
        first: a module or model of its framework, a pair (fn, params) with ``fn(params, x)``, or a function of x.
        second: the other model.
        x: the input, a floating-point NumPy array (B, ...).
        y: labels, if the loss is compared too.
        reg: the regularizer; the default is ``SpectReg(1.0)``, and ``+ DataGrad(1.0)`` with labels.
        backends: the backend of each model, such as "torch", if its type does not tell; a pair is taken to be JAX's.
        parameters: names in the first model -> names in the second, see :data:`gradreg_validation.arrays.Names`. The
            default is the names that both have, with equal shapes.
        layers: the same for activations, in the order of computation; the default is the names that both have.
        inputs: per model, a permutation of axes or a function of the framework's array, from x to the model's input.
        activations: per model without named layers, its activations; see :class:`gradreg_validation.models.Side`.
        transpose: whether arrays without a rearrangement are compared under the best permutation of their axes.
        step: the step of training, for draws and schedules.
        loss_fn: the loss per sample, ``loss_fn(outputs, y)``, or a pair of them.
        class_axis: the axis of the outputs that holds the classes, or a pair of them.
        seed: of the perturbations.
        repeats: the number of perturbations; their median counts.
        tolerance: the largest ratio to the measured roundoff that counts as agreement.

    Returns:
        An :class:`Agreement`: ``print(report)`` is a table, ``report.ok`` the verdict, ``report.cause`` what is wrong.

    Raises:
        InputError: an argument does not fit, a model fails on the batch, or it is random.
        InputTypeError: x is not a floating-point array, or reg is not a regularizer.
        UnsupportedError: the backend of a model cannot be used here, or the model is in half precision.
    """
    x, y = _batch(x, y)
    reg = _checked(reg, y, repeats, tolerance)
    problems = _problems(y, reg, step, loss_fn, class_axis)
    sides = _sides((first, second), backends, problems, inputs, activations, x)
    measurement = _measurement(sides, problems, tolerance, transpose, np.random.default_rng(seed), repeats)
    with sides.kept():
        return _compare(measurement, parameters, layers, _draws(reg, step))


def _sides(models: Any, backends: Any, problems: Any, inputs: Any, activations: Any, x: np.ndarray) -> Sides:
    made = []
    for i, model in enumerate(models):
        with blame(WHICH[i]):
            made.append(make_side(model, backends[i], problems[i], axes=inputs[i], activations=activations[i]))
    return Sides([side for _, side in made], [name for name, _ in made], x)


def _measurement(
    sides: Sides, problems: Any, tolerance: float, transpose: bool, rng: np.random.Generator, repeats: int
) -> Measurement:
    axes = tuple(problem.options["class_axis"] for problem in problems)
    return Measurement(sides, axes, tolerance, transpose, [sides.perturbed(rng) for _ in range(repeats)])


def _checked(reg: Any, y: Any, repeats: int, tolerance: float) -> Regularizer:
    Integer(1)("validate", "repeats", repeats)
    Number(0, open_minimum=True)("validate", "tolerance", tolerance)
    return _regularizer(reg, y)


def _problems(y: Any, reg: Regularizer, step: int, loss_fn: Any, class_axis: Any) -> tuple[Problem, Problem]:
    """The problem of each model."""
    axes = class_axis if isinstance(class_axis, tuple) else (class_axis, class_axis)
    losses = loss_fn if isinstance(loss_fn, tuple | list) else (loss_fn, loss_fn)
    first, second = (Problem(y, reg, {"step": step, "class_axis": axes[i], "loss_fn": losses[i]}) for i in (0, 1))
    return first, second


def _compare(measurement: Measurement, parameters: Names | None, layers: Names | None, draws: str) -> Agreement:
    sides, notes = measurement.sides, measurement.notes
    matches = match_parameters(sides, parameters, measurement.transpose)
    pairs = pair_layers(sides, layers)
    rows = measurement.quantity_rows(matches, [sides.evaluate(i) for i in (0, 1)])
    layer_rows = measurement.layer_rows(pairs)
    diverging = next((row.quantity for row in layer_rows if not row.agrees), None)
    left_out = unmatched(sides, matches)
    for i, side in enumerate(sides.pair):
        notes += [f"the {sides.label(i)} model has {warning}" for warning in side.warnings()]
    notes += [f"not compared: {names}" for names in left_out]
    if left_out and not matches:
        notes.append(
            "no gradient of a parameter was compared, so a weight that is detached would not be seen: give "
            "parameters= (--parameters), the names in the first model and in the second"
        )
    cause = cause_of(rows, differing(matches), [] if parameters is None else left_out)
    if cause and diverging is not None:
        cause += _hint(sides, diverging)
    return Agreement(
        backends=(sides.names[0], sides.names[1]),
        dtype=sides.dtype,
        rows=tuple(rows),
        layers=tuple(layer_rows),
        first_divergence=diverging,
        cause=cause,
        notes=tuple(notes),
        tolerance=float(measurement.tolerance),
        unit=measurement.unit,
        draws=draws,
        versions=_versions(sides.names),
    )


def _hint(sides: Sides, quantity: str) -> str:
    """The first diverging layer, and a frequent mistake in ports of its kind."""
    names = quantity.split(" ~ ")
    kinds = [side.layer_kinds.get(name, "") for side, name in zip(sides.pair, (names[0], names[-1]), strict=True)]
    return f" The first layer that differs is {quantity}.{hint_for([*names, *kinds])}"


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


def _draws(reg: Regularizer, step: int) -> str:
    seeds = sorted({seed for term in reg.terms if (seed := getattr(term, "seed", None)) is not None})
    return f"step {step}" + (f", seed {', '.join(map(str, seeds))}" if seeds else "")


def _versions(backends: Sequence[str]) -> dict[str, str]:
    """The versions of what computes: the modules that the backends need and those of their models, if imported."""
    modules: list[str] = []
    for backend in backends:
        description = find_backend(backend).description
        assert description is not None
        modules += [*description.modules, *description.model_modules]
    versions = {name: module_version(name) for name in [*modules, "numpy"] if name in sys.modules}
    return {name: version for name, version in versions.items() if version is not None}
