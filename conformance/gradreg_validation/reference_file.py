"""A model's results in a file, so that its port can be compared where the first framework is not installed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from gradreg_core.errors import DataFileError, InputError, UnsupportedError
from gradreg_core.schema import from_dict, to_dict
from gradreg_core.spec import Regularizer
from gradreg_validation import descriptions
from gradreg_validation.batch import Arrays
from gradreg_validation.models import Evaluation, Problem, Side
from gradreg_validation.recording import Step
from gradreg_validation.sides import Sides
from gradreg_validation.skeletons import filled, skeleton

__all__ = ["FileSide", "Reference", "is_reference", "require_own_batch", "write"]

_SEPARATOR = ":"


def is_reference(model: Any) -> bool:
    """Whether a model is given as the path of a file."""
    return isinstance(model, str | os.PathLike)


class Reference:
    """The content of a file that :func:`gradreg_validation.save_reference` wrote, or of arrays x and outputs alone.

    Args:
        path: an .npz file.

    Raises:
        DataFileError: it cannot be read, or has no x or no outputs.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            with np.load(self.path, allow_pickle=False) as content:
                self.arrays = {name: content[name] for name in content.files}
        except (OSError, ValueError, TypeError, AttributeError, EOFError) as error:
            raise DataFileError(f"{path}: cannot be read as an .npz file of plain arrays: {error}") from error
        except Exception as error:  # zipfile.BadZipFile, zlib.error
            raise DataFileError(f"{path}: is damaged: {error}") from error
        for wanted in ("x", "outputs"):
            if not self.part(wanted):
                names = ", ".join(sorted(self.arrays)[:12]) or "none"
                raise DataFileError(f"{path}: expected an array named {wanted}, got {names}.")
        try:
            self.about: dict[str, Any] = json.loads(str(self.arrays["about"])) if "about" in self.arrays else {}
        except ValueError as error:
            raise DataFileError(f"{path}: its array about is not JSON text: {error}") from error

    @property
    def title(self) -> str:
        """The model's name in reports."""
        backend = self.about.get("backend")
        return f"{backend}, in {self.path.name}" if backend else self.path.name

    def part(self, kind: str) -> Arrays:
        """The arrays whose names begin with `kind`, by what follows; an array of just that name is ""."""
        start = kind + _SEPARATOR
        part = {name[len(start) :]: array for name, array in self.arrays.items() if name.startswith(start)}
        return {"": self.arrays[kind], **part} if kind in self.arrays else part

    @property
    def x(self) -> Any:
        """The batch, in the structure that was given; of a file without one, an array or a dict of arrays by path."""
        if "structure" in self.about:
            return filled(self.about["structure"], self.part("x"))
        arrays: dict[str, Any] = dict(self.part("x"))
        return arrays[""] if list(arrays) == [""] else arrays

    @property
    def y(self) -> np.ndarray | None:
        """The labels, if there were some."""
        return self.arrays.get("y")

    @property
    def reg(self) -> Regularizer | None:
        """The regularizer, if there was one."""
        given = self.about.get("reg")
        return None if given is None else from_dict(given)


class FileSide(Side):
    """A model that is known by what it gave on one batch."""

    measurable = False

    def __init__(self, reference: Reference, problem: Problem) -> None:
        self.reference = reference
        self.model, self.backend, self.problem, self.axes, self.stages = reference, "", problem, None, None
        self.layer_kinds = {}
        self.dtype = str(reference.about.get("dtype", "float32"))
        self._open()

    def _open(self) -> None:
        self.values = self.reference.part("parameter")

    @property
    def bare(self) -> bool:
        """Whether the file has outputs alone, as one has that :func:`write` did not write."""
        return not (self.values or self.reference.about or self.reference.part("input gradient"))

    def evaluate(self, x: Arrays, changed: Arrays) -> Evaluation:
        """The results in the file.

        Raises:
            UnsupportedError: for another batch or other parameters.
        """
        if changed:
            raise UnsupportedError("a file holds the results of one batch and no model.")
        part = self.reference.part
        penalties = tuple(array for _, array in sorted(part("penalty").items(), key=lambda item: int(item[0] or 0)))
        by_parameter: dict[str, Arrays] = {}
        for name, array in part("parameter gradient").items():
            goal, _, parameter = name.partition(_SEPARATOR)
            by_parameter.setdefault(goal, {})[parameter] = array
        loss = part("loss").get("")
        return Evaluation(part("outputs"), loss, penalties, part("input gradient"), by_parameter)

    def record(self, x: Arrays, changed: Arrays) -> list[Step]:
        steps = []
        for i, about in enumerate(self.reference.about.get("layers", ())):
            inputs = self.reference.part(f"layer {i} input")
            layer = descriptions.from_dict(about["layer"], self.reference.part(f"layer {i} parameter"))
            steps.append(Step(about["name"], inputs, self.reference.part(f"layer {i} output"), layer))
        return steps


def write(path: str | os.PathLike[str], sides: Sides, versions: dict[str, str]) -> None:
    """Write the results of the first of the sides on the batch."""
    side, problem = sides.pair[0], sides.pair[0].problem
    evaluation = sides.evaluate(0)
    arrays: Arrays = {}

    def put(kind: str, named: Arrays) -> None:
        arrays.update({f"{kind}{_SEPARATOR}{name}" if name else kind: array for name, array in named.items()})

    put("x", sides.x)
    put("outputs", evaluation.outputs)
    put("penalty", {str(i): penalty for i, penalty in enumerate(evaluation.penalties)})
    put("input gradient", evaluation.by_input)
    put("parameter", side.values)
    for goal, gradients in evaluation.by_parameter.items():
        put("parameter gradient", {f"{goal}{_SEPARATOR}{name}": array for name, array in gradients.items()})
    if problem.y is not None:
        arrays["y"] = problem.y
    if evaluation.loss is not None:
        arrays["loss"] = evaluation.loss
    layers = []
    for i, step in enumerate(sides.steps(0)):
        described, params = descriptions.as_dict(step)
        layers.append({"name": step.name, "layer": described})
        put(f"layer {i} input", step.inputs)
        put(f"layer {i} output", step.outputs)
        put(f"layer {i} parameter", params)
    about = _about(sides, layers, versions)
    arrays["about"] = np.array(json.dumps(about))
    try:
        np.savez(path, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        raise DataFileError(f"{path}: cannot be written: {error}") from error


def _about(sides: Sides, layers: list[dict[str, Any]], versions: dict[str, str]) -> dict[str, Any]:
    """Everything in a file that is not an array."""
    problem = sides.pair[0].problem
    selector = problem.options.get("outputs")
    return {
        "dtype": sides.dtype,
        "backend": sides.names[0],
        "reg": None if problem.reg is None else to_dict(problem.reg),
        "outputs": selector if isinstance(selector, str) else None,
        "structure": skeleton(problem.batch),
        "step": problem.options.get("step", 0),
        "versions": versions,
        "layers": layers,
    }


def require_own_batch(given: dict[str, Any]) -> None:
    """Refuse arguments that a file holds.

    Raises:
        InputError: one of them was given.
    """
    named = [name for name, value in given.items() if value is not None]
    if named:
        raise InputError(f"validate: {', '.join(named)} is in the file of the reference; leave it out.")
