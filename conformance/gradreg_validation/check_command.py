"""``gradreg check``: the check before training, from the command line."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click
import numpy as np

from gradreg_core.cli.arguments import made, parse_regularizer
from gradreg_core.cli.foreign import one_line, timeout_option
from gradreg_core.cli.streams import prints_to_stderr
from gradreg_core.errors import GradregError, InputError
from gradreg_core.plugins.dispatch import backend_of, load_backend, load_component
from gradreg_core.spec import Regularizer
from gradreg_validation.opening import backend_of_model

__all__ = ["check_command"]


@click.command("check", epilog="\b\nExample:\n  gradreg check models:critic --reg 'R1(10.0)'")
@click.argument("target", metavar="MODULE:FACTORY")
@click.option("--reg", "text", default="SpectReg(1.0)", show_default=True, metavar="SPEC", help="Or a to_dict() file.")
@click.option("--backend", metavar="NAME", help="The backend, if the type of the model or of x does not tell.")
@click.option("--step", default=0, show_default=True, help="The step of training, for draws and schedules.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@timeout_option
def check_command(target: str, text: str, backend: str | None, step: int, as_json: bool, timeout: float) -> None:
    """Look whether a model can be trained with a regularizer.

    MODULE:FACTORY, found from the current directory, is a function without arguments that returns (model, x) or
    (model, x, y): a small batch. A model is what the framework has, or a pair (function of (params, x), params). NumPy
    arrays are turned into the framework's, their floats into float32. The exit status is 0 if the model passes, 1 if
    not, 2 if it cannot be checked.
    """
    with prints_to_stderr(as_json, for_good=True) as stdout:
        report = _report(target, parse_regularizer(text, "check"), backend, step, timeout)
        click.echo(_as_json(report) if as_json else str(report), file=stdout)
        if not report.ok:
            click.get_current_context().exit(1)


def _report(target: str, reg: Regularizer, backend: str | None, step: int, timeout: float) -> Any:
    value = made(target, "check", timeout)
    if not isinstance(value, tuple) or len(value) not in (2, 3):
        raise InputError(f"check: {target}: expected (model, x) or (model, x, y), got {type(value).__name__}.")
    model, x, y = (*value, None)[:3]
    name = backend or backend_of_model(model) or backend_of(x)
    calls = load_backend(name)
    native = _converter(name)
    options = {}
    if isinstance(model, tuple):
        function, options["params"] = model
        model = _closed(function, options["params"])
    try:
        return calls.check(model, native(x), native(y), reg, step=step, **options)
    except (GradregError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError(f"check: {target} raised {one_line(error)}. Call the model in Python to see where.") from error


def _closed(function: Callable[[Any, Any], Any], params: Any) -> Callable[[Any], Any]:
    return lambda x: function(params, x)


def _converter(name: str) -> Callable[[Any], Any]:
    """Turns NumPy arrays into the backend's, and leaves everything else."""

    def native(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or name == "numpy":
            return value
        harness = load_component(name, "harness")()
        return harness.array(value, "float32" if value.dtype.kind == "f" else str(value.dtype), harness.devices[0])

    return native


def _as_json(report: Any) -> str:
    findings = [asdict(finding) for finding in report.findings]
    return json.dumps({"ok": report.ok, "disagreement": report.disagreement, "findings": findings}, indent=2)
