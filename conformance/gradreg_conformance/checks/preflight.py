"""Mistakes that `check` must notice: a wrong gradient, samples that are coupled, labels that do not fit."""

from typing import Any

import numpy as np

from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.strategies import SMALL
from gradreg_conformance.subject import Subject
from gradreg_core.backend import Backend
from gradreg_core.presets import DataGrad, SpectReg

_LEAST = 0.05
"""How far at least the gradient of the wrong model is from finite differences."""


@check("values")
def check_notices_what_is_wrong(subject: Subject) -> None:
    """The call check fails a wrong second derivative and wrong labels, and says that samples are coupled."""
    subject.need_any_callable()
    ops = subject.ops
    case = Case(SMALL, SpectReg(1.0), batch=3, dtype=subject.dtype)
    arrays = subject.arrays(case)
    trained = {path: subject.harness.parameter(arrays[path]) for path in SMALL.weights()}
    bare, calls = subject.model(SMALL, trained), subject.harness.calls

    def model(x: Any) -> Any:
        """Less the mean of the batch, and times a factor that the input moves and derivatives take for a constant."""
        z = bare(x - ops.sum(x, 0, keepdims=True) * (1 / 3))
        return z * ops.stop_gradient(1.0 + ops.sum(z * z, 1, keepdims=True))

    report = calls.check(model, arrays["x"], subject.labels(case), case.reg)
    if report.ok or report.disagreement is None or not report.disagreement > _LEAST:
        raise Disagreement(
            f"check of a model with a factor under stop_gradient, whose penalty has a wrong gradient: expected a "
            f"failure with a disagreement above {_LEAST}, got {report}"
        )
    if all(finding.level == "error" for finding in report.findings):
        raise Disagreement(f"check of a model that subtracts the mean of the batch: expected a warning, got {report}")
    wrong = subject.array(np.array([0, 9, 1]), "int64")
    report = calls.check(bare, arrays["x"], wrong, DataGrad(1.0))
    if report.ok:
        raise Disagreement(f"check with a label of 9 for four classes: expected a failure, got {report}")
    if type(ops).objective is Backend.objective:
        return  # its `check` moves the input alone

    def scaled(x: Any) -> Any:
        """Times a factor that the weights alone move, and derivatives take for a constant."""
        return bare(x) * ops.stop_gradient(ops.sum(trained["0.weight"] * trained["0.weight"], (0, 1)))

    report = calls.check(scaled, arrays["x"], subject.labels(case), case.reg)
    if report.ok:
        raise Disagreement(f"check of a model whose weights have a wrong derivative: expected a failure, got {report}")
