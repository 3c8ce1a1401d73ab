"""``gradreg validate``: compare a model and its port from the command line."""

import inspect
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import click
import numpy as np

from gradreg_core.cli.arguments import parse_regularizer, read_json, resolve
from gradreg_core.errors import DataFileError, GradregError, InputError
from gradreg_validation import TOLERANCE, validate

__all__ = ["read_batch", "validate_command"]


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
    return None if path is None else read_json(path)


def _axes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(axis) for axis in text.split(","))
    except ValueError as error:
        raise InputError(f"validate: expected axes such as 0,3,1,2, got {text!r}.") from error
