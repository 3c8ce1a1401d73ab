"""The check itself."""

from typing import Any

from gradreg_core.errors import BatchNormError, GradregError
from gradreg_core.forward import Call
from gradreg_core.inputs import Arguments
from gradreg_core.preflight.differences import against_differences, wrong_gradient
from gradreg_core.preflight.probes import empty_terms, kinks, probabilities, random_pairs
from gradreg_core.preflight.report import CheckReport, Finding
from gradreg_core.preflight.subject import BoundCalls, Subject, jacobian_terms
from gradreg_core.selection import select
from gradreg_core.spec import Regularizer

__all__ = ["run_check"]


def run_check(calls: BoundCalls, call: Call, model: Any, arguments: Arguments, y: Any, reg: Regularizer) -> CheckReport:
    """See :meth:`gradreg_core.calls.Calls.check`."""
    subject, ops = Subject(calls, call, model, arguments, y, reg), calls.backend
    x, options = arguments.as_passed(arguments.packed()), call.options()
    findings: list[Finding] = []
    disagreement = outputs = None
    with ops.repeatable(model):
        try:
            returned = calls.loss(model, x, y, reg, batch_norm="error", **options)[1].outputs
            outputs = select(ops, "check", call.outputs, returned)
        except BatchNormError as error:
            findings.append(Finding("warning", str(error), ""))
        except GradregError as error:
            return CheckReport((Finding("error", str(error), ""),), None)
    of_framework, blocked = ops.diagnose(calls, model, x, y, reg, options)
    findings += [Finding(*row) for row in of_framework]
    if blocked:
        return CheckReport(tuple(findings), None)
    if outputs is not None and call.loss_fn is None:
        findings += probabilities(subject, outputs)
    empty = empty_terms(subject)
    findings += empty
    all_empty = bool(empty) and len(empty) == len(jacobian_terms(subject.reg))
    if not all_empty and arguments.wrt:
        disagreement, settled = against_differences(subject)
        findings += wrong_gradient(disagreement, settled)
        findings += random_pairs(subject) or kinks(subject)
    return CheckReport(tuple(findings), disagreement)
