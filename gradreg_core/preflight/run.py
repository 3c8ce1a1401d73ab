"""The check itself."""

from typing import Any

from gradreg_core.backend import Array
from gradreg_core.errors import BatchNormError, GradregError
from gradreg_core.layout import is_floating
from gradreg_core.preflight.differences import against_differences, wrong_gradient
from gradreg_core.preflight.probes import empty_terms, kinks, probabilities, random_pairs
from gradreg_core.preflight.report import CheckReport, Finding
from gradreg_core.preflight.subject import BoundCalls, Subject, jacobian_terms
from gradreg_core.spec import Regularizer

__all__ = ["run_check"]


def run_check(
    calls: BoundCalls, model: Any, x: Array, y: Any, reg: Regularizer, options: dict[str, Any]
) -> CheckReport:
    """See :meth:`gradreg_core.calls.Calls.check`."""
    subject, ops = Subject(calls, model, x, y, reg, options), calls.backend
    findings: list[Finding] = []
    disagreement = outputs = None
    with ops.repeatable(model):
        try:
            outputs = calls.loss(model, x, y, reg, batch_norm="error", **options)[1].outputs
        except BatchNormError as error:
            findings.append(Finding("warning", str(error), ""))
        except GradregError as error:
            return CheckReport((Finding("error", str(error), ""),), None)
    of_framework, blocked = ops.diagnose(calls, model, x, y, reg, options)
    findings += [Finding(*row) for row in of_framework]
    if blocked:
        return CheckReport(tuple(findings), None)
    if outputs is not None and options["loss_fn"] is None:
        findings += probabilities(subject, outputs)
    empty = empty_terms(subject)
    findings += empty
    all_empty = bool(empty) and len(empty) == len(jacobian_terms(subject.reg))
    if not all_empty and is_floating(ops.dtype(x)):
        disagreement, settled = against_differences(subject)
        findings += wrong_gradient(disagreement, settled)
        findings += random_pairs(subject) or kinks(subject)
    return CheckReport(tuple(findings), disagreement)
