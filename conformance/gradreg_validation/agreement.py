"""Whether two models, of one framework or two, compute the same penalty and the same gradients."""

import os
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
from gradreg_validation.batch import Batch
from gradreg_validation.cause import cause_of, differing_output, same_function
from gradreg_validation.diagnosis import Diagnosis
from gradreg_validation.layer_pairs import layers_note, proposed_layers, with_forms
from gradreg_validation.matching import differing, match_parameters, pair_layers, turned_kernels, unmatched
from gradreg_validation.models import Problem, Side
from gradreg_validation.opening import make_side
from gradreg_validation.proposal import Proposal, proposal_for, resolved
from gradreg_validation.reference_file import FileSide, Reference, is_reference, require_own_batch, write
from gradreg_validation.report import Agreement, Row
from gradreg_validation.rows import Measurement, same_outputs
from gradreg_validation.sides import WHICH, Sides, blame

__all__ = ["TOLERANCE", "Agreement", "Row", "save_reference", "validate"]

TOLERANCE = 8.0
"""The ratio up to which two results agree. Right ports gave 0 to 3.6 times the measured roundoff, wrong ones from 200
(the two forms of GELU) to 5e5, so the verdict does not hang on the exact value."""


def validate(
    first: Any,
    second: Any,
    x: Any = None,
    y: Any = None,
    reg: Any = None,
    *,
    backends: tuple[str | None, str | None] = (None, None),
    parameters: Names | None = None,
    mapping: Any = None,
    layers: Names | None = None,
    inputs: tuple[Any, Any] = (None, None),
    activations: tuple[Any, Any] = (None, None),
    transpose: bool = True,
    step: int = 0,
    loss_fn: Any = None,
    class_axis: int | tuple[int | None, int | None] | None = None,
    outputs: Any = None,
    seed: int = 0,
    repeats: int = 5,
    tolerance: float = TOLERANCE,
) -> Agreement:
    """Compare outputs, loss, penalties and gradients of a model and its port on one batch, and change neither.

    Args:
        first: a module or model, a pair (fn, params) with ``fn(params, x)``, a function of x, or the path of a file of
            :func:`gradreg_validation.save_reference`, which has x, y and reg too.
        second: the other model.
        x: the input, (B, ...): a NumPy array, a nested structure of such, or :class:`gradreg_core.inputs.Inputs`.
        y: labels, if the loss is compared too.
        reg: the regularizer, or a pair, where places have other names in the second model; default ``SpectReg(1.0)``,
            with labels ``+ DataGrad(1.0)``, and none for tokens: name a place, ``SpectReg(1.0, at="embedding")``.
        backends: the backend of each model, such as "torch", if its type does not tell; a pair is taken to be JAX's.
        parameters: names in the first model -> names in the second, :data:`gradreg_validation.arrays.Names`; default:
            the names that both have, with equal shapes.
        mapping: "proposed" confirms the map of :func:`gradreg_validation.propose`, a dict answers what is ambiguous.
        layers: as parameters, in the order of computation; default: of equal name, or whose parameters match.
        inputs: per model, a permutation of axes or a function of the framework's x, from x to the model's input.
        activations: per model without named layers, its activations; see :class:`gradreg_validation.models.Side`.
        transpose: whether arrays without a rearrangement are compared under the best permutation of their axes.
        step: the step of training, for draws and schedules.
        loss_fn: as in gradreg's calls, or a pair of them.
        class_axis: the same.
        outputs: the same; without it all floating-point arrays that the models return are compared.
        seed: of the perturbations.
        repeats: the number of perturbations; their median counts.
        tolerance: the largest ratio to the measured roundoff that counts as agreement.

    Raises:
        GradregError: InputError, InputTypeError, UnsupportedError or DataFileError; the message says what to change.
    """
    models, x, y, reg, step = _opened((first, second), x, y, reg, step)
    batch = Batch.of(x)
    regs = _checked(reg, y, batch, repeats, tolerance)
    options = {"loss_fn": loss_fn, "class_axis": class_axis, "outputs": _outputs(models, outputs)}
    problems = [Problem(batch, y, regs[i], {"step": step, **_of_side(options, i)}) for i in (0, 1)]
    sides = _sides(models, backends, problems, inputs, activations, batch)
    measurement = _measurement(sides, problems, tolerance, transpose, np.random.default_rng(seed), repeats)
    with sides.kept():
        return _compare(measurement, parameters, mapping, layers, _draws(regs[0], step))


def _opened(models: tuple[Any, Any], x: Any, y: Any, reg: Any, step: int) -> tuple[Any, Any, Any, Any, int]:
    """The models, and the problem: a file's own, if one of them is a file."""
    opened = [Reference(model) if is_reference(model) else model for model in models]
    files = [model for model in opened if isinstance(model, Reference)]
    if len(files) == 2:
        raise InputError("validate: both models are files; give one of them as a model.")
    if files:
        require_own_batch({"x": x, "y": y})
        x, y, step = files[0].x, files[0].y, step or int(files[0].about.get("step", 0))
        reg = files[0].reg if reg is None else reg
    return opened, x, None if y is None else np.asarray(y), reg, step


def _outputs(models: Sequence[Any], given: Any) -> Any:
    """The outputs that count: those that are given, or else the path with which a file was written."""
    saved = [model.about.get("outputs") for model in models if isinstance(model, Reference)]
    return saved[0] if given is None and saved else given


def _sides(models: Any, backends: Any, problems: Any, inputs: Any, activations: Any, batch: Batch) -> Sides:
    made: list[tuple[str, Side]] = []
    for i, model in enumerate(models):
        if isinstance(model, Reference):
            made.append((model.title, FileSide(model, problems[i])))
            continue
        with blame(WHICH[i]):
            made.append(make_side(model, backends[i], problems[i], axes=inputs[i], activations=activations[i]))
    return Sides([side for _, side in made], [name for name, _ in made], batch)


def save_reference(
    path: str | os.PathLike[str],
    model: Any,
    x: Any,
    y: Any = None,
    reg: Any = None,
    *,
    backend: str | None = None,
    inputs: Any = None,
    activations: Any = None,
    step: int = 0,
    loss_fn: Any = None,
    class_axis: int | None = None,
    outputs: Any = None,
) -> None:
    """Write a model's results on a batch to a file, to compare its port where the model's framework is not installed.

    The file holds x, y, the regularizer, outputs, loss, penalties, all gradients, the parameters and the activations of
    the layers, as plain arrays. Give its path to :func:`gradreg_validation.validate` in place of the model. The
    arguments are as there.

    Raises:
        GradregError: as of validate; DataFileError: the file cannot be written.
    """
    batch, y = Batch.of(x), None if y is None else np.asarray(y)
    options = {"step": step, "loss_fn": loss_fn, "class_axis": class_axis, "outputs": outputs}
    problem = Problem(batch, y, _regularizer(reg, y, batch), options)
    sides = _sides((model,), (backend,), (problem,), (inputs,), (activations,), batch)
    with sides.kept():
        write(path, sides, _versions(sides))


def _measurement(
    sides: Sides, problems: Any, tolerance: float, transpose: bool, rng: np.random.Generator, repeats: int
) -> Measurement:
    axes = tuple(problem.options["class_axis"] for problem in problems)
    return Measurement(sides, axes, tolerance, transpose, [sides.perturbed(rng) for _ in range(repeats)])


def _checked(
    reg: Any, y: Any, batch: Batch, repeats: int, tolerance: float
) -> tuple[Regularizer | None, Regularizer | None]:
    Integer(1)("validate", "repeats", repeats)
    Number(0, open_minimum=True)("validate", "tolerance", tolerance)
    given = reg if isinstance(reg, tuple) else (reg, reg)
    if len(given) != 2:
        raise InputTypeError(f"validate: reg must be a regularizer or a pair of them, got {reg!r}.")
    first, second = (_regularizer(one, y, batch) for one in given)
    counts = [0 if one is None else len(one.terms) for one in (first, second)]
    if counts[0] != counts[1]:
        raise InputError(f"validate: the two regularizers must have the same terms in the same order, got {counts}.")
    return first, second


def _of_side(options: dict[str, Any], i: int) -> dict[str, Any]:
    """The options of one model: a pair has one for each; a list of outputs counts for both."""
    return {
        name: value[i] if isinstance(value, tuple) or (name == "loss_fn" and isinstance(value, list)) else value
        for name, value in options.items()
    }


def _compare(
    measurement: Measurement, parameters: Names | None, mapping: Any, layers: Names | None, draws: str
) -> Agreement:
    sides, notes = measurement.sides, measurement.notes
    proposal = proposal_for(*(side.values for side in sides.pair))
    if mapping is not None:
        parameters = resolved(mapping, proposal)
    matches = match_parameters(sides, parameters, measurement.transpose)
    evaluations = same_outputs([sides.evaluate(i) for i in (0, 1)])
    if layers is None:
        pairs = proposed_layers(sides, proposal, [(match.first, match.second) for match in matches])
    else:
        pairs = with_forms(sides, pair_layers(sides, layers))
    rows = measurement.quantity_rows(matches, evaluations)
    layer_rows, agrees = measurement.layer_rows(pairs, same_function(rows))
    diverging = next((label for label, agree in agrees.items() if not agree), None)
    left_out = unmatched(sides, matches)
    for i, side in enumerate(sides.pair):
        notes += [f"the {sides.label(i)} model has {warning}" for warning in side.warnings()]
    bare = any(isinstance(side, FileSide) and side.bare for side in sides.pair)
    if bare:
        notes.append("the file has no parameters, gradients and layers; save_reference writes one that has")
    else:
        notes += _unmatched_notes(left_out, bool(matches), proposal if parameters is None else None)
    notes += turned_kernels(matches)
    cause = cause_of(rows, differing(matches), [] if parameters is None else left_out)
    if cause and not same_function(rows):
        if diverging is not None:
            cause += f" The first layer that differs is {diverging}."
        path = differing_output(rows)
        cause += Diagnosis(sides, pairs, agrees).hint(path, [evaluation.outputs[path] for evaluation in evaluations])
        if layers is None and not bare:
            notes.append(layers_note(sides, pairs))
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
        versions=_versions(sides),
    )


def _unmatched_notes(left_out: Sequence[str], matched: bool, proposal: Proposal | None) -> list[str]:
    """Which parameters were not compared, and what to give so that they are; a proposal is one not yet confirmed."""
    notes = [f"not compared: {names}" for names in left_out]
    if left_out and not matched:
        notes.append(
            "no gradient of a parameter was compared, so a weight that is detached would not be seen: give "
            "parameters= (--parameters), the names in the first model and in the second"
        )
    if proposal is not None and len(left_out) == 2 and (proposal.pairs or proposal.ambiguous):
        notes.append(f'a proposed map of parameters; mapping="proposed" (--mapping proposed) confirms it:\n{proposal}')
    return notes


def _regularizer(reg: Any, y: Any, batch: Batch) -> Regularizer | None:
    if reg is None:
        if not batch.floating:
            return None
        return SpectReg(1.0) if y is None else SpectReg(1.0) + DataGrad(1.0)
    if not isinstance(reg, Regularizer):
        raise InputTypeError(f"validate: reg must be a regularizer such as SpectReg(0.01), got {reg!r}.")
    return reg


def _draws(reg: Regularizer | None, step: int) -> str:
    terms = () if reg is None else reg.terms
    seeds = sorted({seed for term in terms if (seed := getattr(term, "seed", None)) is not None})
    return f"step {step}" + (f", seed {', '.join(map(str, seeds))}" if seeds else "")


def _versions(sides: Sides) -> dict[str, str]:
    """The versions of the modules that the backends and their models need, if they are imported."""
    modules: list[str] = []
    saved: dict[str, str] = {}
    for side, backend in zip(sides.pair, sides.names, strict=True):
        if isinstance(side, FileSide):
            saved = {
                f"{name} (file)": str(version) for name, version in side.reference.about.get("versions", {}).items()
            }
            continue
        description = find_backend(backend).description
        assert description is not None
        modules += [*description.modules, *description.model_modules]
    versions = {name: module_version(name) for name in [*modules, "numpy"] if name in sys.modules}
    return {name: version for name, version in versions.items() if version is not None} | saved
