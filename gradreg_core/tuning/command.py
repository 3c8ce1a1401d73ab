"""``gradreg tune``: the search for a weight from the command line."""

import inspect
from pathlib import Path
from typing import Any

import click

from gradreg_core.cli.arguments import parse_regularizer, resolve
from gradreg_core.cli.files import write_json, write_text
from gradreg_core.cli.foreign import TIMEOUT
from gradreg_core.cli.stopping import command_line, terminable
from gradreg_core.cli.terminal import out_option
from gradreg_core.errors import InputError, add_note
from gradreg_core.schema import to_dict
from gradreg_core.tuning.search import search

__all__ = ["tune"]

_TRAININGS, _TABLE, _CHOICE, _PICTURE = "trainings.jsonl", "table.txt", "regularizer.json", "weights.png"


@click.command("tune", epilog="\b\nExample:\n  gradreg tune training:fit --reg 'SpectReg(0.01)' --out out/tune")
@click.argument("target", metavar="MODULE:FIT")
@click.option("--reg", required=True, metavar="SPEC", help="Where to start: 'SpectReg(0.01)', or a to_dict() file.")
@click.option("--trainings", default=8, show_default=True, help="The largest number of trainings.")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(1), help="Trainings per weight.")
@click.option("--validation-size", type=click.IntRange(1), help="Validation samples, for the error of an accuracy.")
@out_option(help="Folder of trainings, table, choice and picture; trainings that are in it are not repeated.")
@click.option("--plot/--no-plot", default=True, show_default=True, help="Draw the picture, which needs Matplotlib.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=TIMEOUT,
    show_default=True,
    help="Seconds that importing MODULE may take.",
)
def tune(
    target: str,
    reg: str,
    trainings: int,
    seeds: int,
    validation_size: int | None,
    out: Path | None,
    plot: bool,
    timeout: float,
) -> None:
    """Search for the weight of a regularizer by training a few times.

    MODULE:FIT is a function fit(reg, seed), found from the current directory. It trains with a regularizer (None:
    without) and returns a score on validation data, higher is better, or (score, norm of the Jacobian). The exit status
    is 0, or 2 with a line on stderr if the search cannot be done.

    With --out, a search that was stopped resumes when it is called again.
    """
    start = parse_regularizer(reg, "tune")
    fit = _guarded(target, resolve(target, "tune", timeout))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    journal = None if out is None else out / _TRAININGS
    note = "" if out is None else f"The finished trainings are kept in {out}. To continue: {command_line()}"
    try:
        with terminable(note):
            result = search(
                fit, start, trainings=trainings, seeds=range(seeds), validation_size=validation_size, journal=journal
            )
    except BaseException as error:
        if journal is not None and journal.exists():
            add_note(error, note)
        raise
    click.echo(str(result))
    if out is None:
        return
    write_text(out / _TABLE, f"{result}\n")
    write_json(out / _CHOICE, None if result.regularizer is None else to_dict(result.regularizer))
    if plot:
        try:
            result.plot(out / _PICTURE)
        except ImportError as error:
            raise InputError(
                f"tune: the picture needs Matplotlib: {error}. Install it with: pip install matplotlib, or add "
                f"--no-plot. The trainings are kept in {out}."
            ) from error


def _guarded(target: str, fit: Any) -> Any:
    """`fit` with its errors turned into one line.

    Raises:
        InputError: it is not a function of (reg, seed).
    """
    try:
        inspect.signature(fit).bind(None, 0)
    except (TypeError, ValueError) as error:
        raise InputError(f"tune: {target} must be a function of (reg, seed), got {fit!r}.") from error

    def guarded(reg: Any, seed: int) -> Any:
        try:
            return fit(reg, seed)
        except Exception as error:
            text = " ".join(str(error).split())
            raise InputError(
                f"tune: {target} raised {type(error).__name__} with {reg!r} and seed {seed}: {text} "
                f"(call it in Python for the traceback)"
            ) from error

    return guarded
