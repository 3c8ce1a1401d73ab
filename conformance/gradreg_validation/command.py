"""``gradreg validate``: compare a model and its port from the command line."""

import os
from typing import Any

import click
import numpy as np

from gradreg_core.cli.arguments import made, parse_regularizer, read_json, resolve
from gradreg_core.cli.arrays import read_arrays
from gradreg_core.cli.foreign import timeout_option
from gradreg_core.cli.streams import prints_to_stderr
from gradreg_core.errors import DataFileError, InputError
from gradreg_validation import TOLERANCE, validate

__all__ = ["read_batch", "validate_command"]


@click.command(
    "validate",
    epilog="\b\nExample:\n  gradreg validate models:net ports:net --batch x.npz --reg 'SpectReg(0.01)'",
)
@click.argument("first")
@click.argument("second")
@click.option("--batch", metavar="FILE.npz", help="Arrays x and, for the loss, y. A reference has its own.")
@click.option("--reg", metavar="SPEC", help="'SpectReg(0.01)', a sum of such, or a JSON file of to_dict().")
@click.option("--parameters", metavar="FILE.json", help="Names in FIRST -> names in SECOND, or a list of pairs.")
@click.option("--mapping", metavar="proposed", help="Confirms the proposed map; or a JSON file of answers.")
@click.option("--layers", metavar="FILE.json", help="Pairs of names of activations, or a list of names.")
@click.option("--first-backend", metavar="NAME", help="The backend of FIRST, if its type does not tell.")
@click.option("--second-backend", metavar="NAME", help="The backend of SECOND.")
@click.option("--first-axes", metavar="0,3,1,2", help="A permutation that turns x into FIRST's input.")
@click.option("--second-axes", metavar="0,3,1,2", help="A permutation that turns x into SECOND's input.")
@click.option("--first-activations", metavar="MODULE:NAME", help="Stages, or a function that returns activations.")
@click.option("--second-activations", metavar="MODULE:NAME", help="The same for SECOND.")
@click.option("--step", default=0, show_default=True, help="The step of training, for draws and schedules.")
@click.option("--tolerance", default=TOLERANCE, show_default=True, help="Times the measured roundoff.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@timeout_option
def validate_command(first: str, second: str, batch: str | None, as_json: bool, **given: Any) -> None:
    """Compare penalty and gradients of two models on one batch.

    FIRST and SECOND are "module:name", found from the current directory: a model, or a class or a function that is
    called without arguments and returns a model or a pair (fn, params). One may be an .npz file of save_reference. The
    exit status is 0 if they agree, 1 if not, 2 if they cannot be compared.
    """
    with prints_to_stderr(as_json, for_good=True) as stdout:
        report = _report(first, second, batch, **given)
        click.echo(report.to_json() if as_json else str(report), file=stdout)
        if not report.ok:
            click.get_current_context().exit(1)


def _report(first: str, second: str, batch: str | None, **given: Any) -> Any:
    saved = [target for target in (first, second) if target.endswith(".npz")]
    if batch is None and not saved:
        raise InputError("validate: --batch is missing: an .npz file with x and, for the loss, y.")
    x, y = (None, None) if batch is None else read_batch(batch)
    reg = None if given["reg"] is None else parse_regularizer(given["reg"])
    named: dict[str, Any] = {
        "backends": (given["first_backend"], given["second_backend"]),
        "parameters": _json_file(given["parameters"]),
        "mapping": given["mapping"] if given["mapping"] == "proposed" else _json_file(given["mapping"]),
        "layers": _json_file(given["layers"]),
        "inputs": (_axes(given["first_axes"]), _axes(given["second_axes"])),
        "activations": tuple(_optional(given[f"{side}_activations"], given["timeout"]) for side in ("first", "second")),
        "step": given["step"],
        "tolerance": given["tolerance"],
    }
    model, port = (
        target if target in saved else made(target, "validate", given["timeout"]) for target in (first, second)
    )
    try:
        return validate(model, port, x, y, reg, **named)
    except SystemExit as error:
        raise InputError(f"validate: a model called sys.exit({error.code!r}). Remove the call.") from error


def _optional(target: str | None, seconds: float) -> Any:
    return None if target is None else resolve(target, "validate", seconds)


def read_batch(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """The arrays x and y (None if there is none) of an .npz file.

    Raises:
        DataFileError: the file is missing, is not an .npz file of plain arrays, or has no x.
    """
    arrays, names = read_arrays(path, ("x", "y"))
    if "x" not in arrays:
        raise DataFileError(f"{path}: expected an array named x, got {', '.join(names) or 'no array'}.")
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
