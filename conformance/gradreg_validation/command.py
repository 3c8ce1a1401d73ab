"""``gradreg validate``: compare a model and its port from the command line."""

import ast
import inspect
import json
import os
import sys
import zipfile
import zlib
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import click
import numpy as np

from gradreg_core import vocabulary
from gradreg_core.errors import DataFileError, GradregError, InputError
from gradreg_core.schema import from_dict
from gradreg_core.spec import Regularizer
from gradreg_validation import TOLERANCE, validate

__all__ = ["parse_regularizer", "read_batch", "resolve", "validate_command"]


@click.command("validate")
@click.argument("first")
@click.argument("second")
@click.option("--batch", required=True, metavar="FILE.npz", help="Arrays x and, for the loss, y.")
@click.option("--reg", metavar="SPEC", help="'SpectReg(0.01)', a sum of such, or a JSON file of to_dict().")
@click.option("--parameters", metavar="FILE.json", help="Names in FIRST -> names in SECOND, or a list of pairs.")
@click.option("--layers", metavar="FILE.json", help="Pairs of names of activations, or a list of names.")
@click.option("--first-backend", metavar="NAME", help="The backend of FIRST, if its type does not tell.")
@click.option("--second-backend", metavar="NAME", help="The backend of SECOND.")
@click.option("--first-axes", metavar="0,3,1,2", help="A permutation that turns x into FIRST's input.")
@click.option("--second-axes", metavar="0,3,1,2", help="A permutation that turns x into SECOND's input.")
@click.option("--first-activations", metavar="MODULE:NAME", help="Stages, or a function that returns activations.")
@click.option("--second-activations", metavar="MODULE:NAME", help="The same for SECOND.")
@click.option("--step", default=0, show_default=True, help="The step of training, for draws and schedules.")
@click.option("--tolerance", default=TOLERANCE, show_default=True, help="Times the measured roundoff.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def validate_command(first: str, second: str, batch: str, as_json: bool, **given: Any) -> None:
    """Compare penalty and gradients of two models on one batch.

    FIRST and SECOND are "module:name", found from the current directory: a model, or a class or a function that is
    called without arguments and returns a model or a pair (fn, params). The exit status is 0 if they agree, 1 if not,
    2 if they cannot be compared.
    """
    x, y = read_batch(batch)
    report = validate(
        _model(first),
        _model(second),
        x,
        y,
        None if given["reg"] is None else parse_regularizer(given["reg"]),
        backends=(given["first_backend"], given["second_backend"]),
        parameters=_json_file(given["parameters"]),
        layers=_json_file(given["layers"]),
        inputs=(_axes(given["first_axes"]), _axes(given["second_axes"])),
        activations=(_optional(given["first_activations"]), _optional(given["second_activations"])),
        step=given["step"],
        tolerance=given["tolerance"],
    )
    click.echo(report.to_json() if as_json else str(report))
    if not report.ok:
        click.get_current_context().exit(1)


def resolve(target: str) -> Any:
    """The object that "module:name" names, with the current directory on the path.

    Raises:
        InputError: the module cannot be imported, or has no such name.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise InputError(f"validate: expected module:name, such as models:network, got {target!r}.")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        return attrgetter(name)(import_module(module))
    except Exception as error:
        raise InputError(f"validate: {target!r} cannot be loaded: {type(error).__name__}: {error}") from error


def _model(target: str) -> Any:
    """The model that `target` names, made if it names a class or a function without arguments."""
    model = resolve(target)
    if not inspect.isclass(model) and not (inspect.isfunction(model) and not inspect.signature(model).parameters):
        return model
    try:
        return model()
    except GradregError:
        raise
    except Exception as error:
        raise InputError(f"validate: {target} raised {type(error).__name__}: {error}") from error


def _optional(target: str | None) -> Any:
    return None if target is None else resolve(target)


def read_batch(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays x and y (None if there is none) of an .npz file.

    Raises:
        DataFileError: the file is missing, is not an .npz file of plain arrays, or has no x.
    """
    try:
        with Path(path).open("rb") as file:
            data = np.load(file, allow_pickle=False)
            if isinstance(data, np.ndarray):
                raise DataFileError(f"{path}: expected an .npz file with x and y, got a single array.")
            arrays = {name: data[name] for name in data.files if name in ("x", "y")}
            names = ", ".join(data.files)
    except DataFileError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataFileError(f"{path}: cannot be read as an .npz file of plain arrays: {error}") from error
    if "x" not in arrays:
        raise DataFileError(f"{path}: expected an array named x, got {names or 'no array'}.")
    return arrays["x"], arrays.get("y")


def _json_file(path: str | None) -> Any:
    if path is None:
        return None
    try:
        names = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFileError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(names, dict | list):
        raise DataFileError(f"{path}: expected a dict of names or a list of pairs, got {type(names).__name__}.")
    return names


def _axes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(axis) for axis in text.split(","))
    except ValueError as error:
        raise InputError(f"validate: expected axes such as 0,3,1,2, got {text!r}.") from error


def parse_regularizer(text: str) -> Regularizer:
    """A regularizer from its short form, such as ``DataGrad(0.1) + SpectReg(0.01, seed=3)``, or from a JSON file.

    Nothing is evaluated but calls of the names in :mod:`gradreg_core.vocabulary` with literal arguments.

    Raises:
        InputError: it is neither.
        SpecError: an argument of the regularizer is wrong.
    """
    if text.endswith(".json"):
        return from_dict(_json_file(text))
    try:
        reg = _build(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError) as error:
        if isinstance(error, GradregError):
            raise
        raise InputError(f"validate: {text!r} is not a regularizer: {error}") from error
    if not isinstance(reg, Regularizer):
        raise InputError(f"validate: {text!r} is not a regularizer such as SpectReg(0.01).")
    return reg


def _build(node: ast.expr) -> Any:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _build(node.left) + _build(node.right)
    if not isinstance(node, ast.Call):
        return ast.literal_eval(node)
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    kind = getattr(vocabulary, name) if name in vocabulary.WORDS else None
    if not callable(kind):
        raise ValueError(f"{ast.unparse(node.func)} is not one of gradreg's words")
    named = {word.arg: _build(word.value) for word in node.keywords if word.arg is not None}
    if len(named) < len(node.keywords):
        raise ValueError("** is not allowed")
    return kind(*map(_build, node.args), **named)
