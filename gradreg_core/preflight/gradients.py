"""The gradient of a penalty: whether it can be taken, is finite, reaches the parameters, and is right."""

from typing import Any

from gradreg_core.objective import Gradients, Objective
from gradreg_core.preflight.differences import Comparison, Differences
from gradreg_core.preflight.precision import are_finite
from gradreg_core.preflight.report import Finding
from gradreg_core.preflight.subject import Subject, smooth_terms
from gradreg_core.spec import Regularizer

__all__ = ["against_differences", "lost", "not_finite"]

_WRONG = "some operation of the model has a wrong second derivative in this framework"
_SETTLING = 100
"""Passes after which power iterations have converged."""
_REMEDY = (
    "Check how that layer is differentiated: a backward pass of its own (autograd.Function, custom_vjp, "
    "custom_gradient) must compute with the tensors themselves, without detach, stop_gradient or numbers kept from the "
    "forward pass. Otherwise replace normalisation and pooling layers one by one to find which it is."
)

_BLURRED = Finding(
    "warning",
    "rounding hides the penalty's derivative from finite differences, as in half precision or with casts to "
    "integers: it could not be verified.",
    "Check a copy of the model in float32 too.",
)


_MASKED = Finding(
    "warning",
    "the penalty jumps where zeros of the input change, as if the model computes a mask from them, so its gradient "
    "was compared only along the other components.",
    "",
)


def not_finite(subject: Subject, objective: Objective, gradients: Gradients) -> list[Finding]:
    """A gradient that is NaN or infinite."""
    _, of_weights, of_input = gradients
    bad = [
        name
        for name, gradient in zip(objective.names, of_weights, strict=True)
        if gradient is not None and not are_finite(subject, [gradient])
    ]
    if not bad and (of_input is None or are_finite(subject, [of_input])):
        return []
    where = f" for {', '.join(bad[:3])}" if bad else " for the input"
    return [Finding("error", f"the penalty's gradient is NaN or infinite{where}.", "Look for sqrt, norm or log at 0.")]


def lost(subject: Subject, objective: Objective, gradients: Gradients) -> list[Finding]:
    """A penalty that is not 0 but that no parameter can change."""
    value, of_weights, _ = gradients
    if subject.number(value) == 0 or not objective.finds_weights:
        return []
    if any(gradient is not None and subject.length(gradient) > 0 for gradient in of_weights):
        return []
    if not objective.weights:
        return [
            Finding(
                "error",
                "the penalty's gradient reaches no parameter: none was found on the model or in what it closes over.",
                "Let the parameters require a gradient, or pass the module that holds them.",
            )
        ]
    return [
        Finding(
            "error",
            "the penalty's gradient is None or 0 for every parameter: training would not change the penalty.",
            "Look for .detach(), .data, torch.no_grad(), stop_gradient or NumPy in the model.",
        )
    ]


def against_differences(subject: Subject, scale: float, weights: bool) -> tuple[float | None, list[Finding]]:
    """Compare the penalty's derivatives along input and weights with differences, with kinks rounded off.

    Args:
        subject: the call.
        scale: the loss scale that suits the gradients.
        weights: whether to compare along the weights too.

    Returns:
        (relative difference along the input or None, findings).
    """
    smooth = smooth_terms(subject.reg)
    if smooth is None:
        return None, []

    try:
        with subject.ops.smoothed(subject.model) as rounded:
            return _settled(subject, smooth, rounded, scale, weights)
    except Exception as error:  # the smooth stand-ins for the kinks do not fit every model
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    nearest, findings = _settled(subject, smooth, subject.model, scale, weights)
    if findings:
        problem = f"the kinks of the model could not be rounded off for the differences ({reason})."
        findings.append(Finding("warning", problem, "Kinks alone may explain the findings about differences."))
    return nearest, findings


def _settled(
    subject: Subject, smooth: Regularizer, model: Any, scale: float, weights: bool
) -> tuple[float | None, list[Finding]]:
    """The comparison; a wrong one is repeated once the model's state has settled.

    The vectors of spectral normalisation are state that a pass improves, and constants to the gradient. Once they are
    singular vectors, they do not move to first order.
    """
    first = _compared(subject, smooth, model, scale, weights)
    if not any(finding.level == "error" for finding in first[1]):
        return first
    with subject.ops.repeatable(subject.model):
        samples = subject.samples(subject.packed)
        for _ in range(_SETTLING):
            subject.forward(samples, ())
        return _compared(subject, smooth, model, scale, weights)


def _compared(
    subject: Subject, smooth: Regularizer, model: Any, scale: float, weights: bool
) -> tuple[float | None, list[Finding]]:
    differences = Differences(subject, subject.objective(smooth, model), scale)
    along = differences.along_input()
    findings = [] if along is None else _of_input(along)
    findings += _of_weights(differences, findings) if weights else []
    return None if along is None else along.nearest, findings


def _of_input(comparison: Comparison) -> list[Finding]:
    if comparison.is_blurred:
        return [_BLURRED]
    if comparison.agrees:
        return [_MASKED] if comparison.zeros_held else []
    if not comparison.settled:
        return [_unsettled(comparison)]
    problem = f"the penalty's gradient differs from finite differences by {comparison.nearest:.1%}: {_WRONG}."
    return [Finding("error", problem, _REMEDY)]


def _of_weights(differences: Differences, before: list[Finding]) -> list[Finding]:
    """Findings about the gradient with respect to the weights; `before` holds those about the input."""
    findings = []
    comparison = differences.along_weights(differences.given)
    if comparison.is_blurred:
        return [] if _BLURRED in before else [_BLURRED]
    if comparison.is_wrong:
        names = differences.names(differences.given)
        most = f", most for {names}" if names else ""
        problem = (
            f"the penalty's gradient with respect to the parameters differs from finite differences by "
            f"{comparison.nearest:.1%}{most}: {_WRONG}."
        )
        findings.append(Finding("error", problem, _REMEDY))
    elif not comparison.agrees and not before:
        findings.append(_unsettled(comparison))
    if differences.missing and differences.along_weights(differences.missing).is_wrong:
        names = differences.names(differences.missing) or "some parameters"
        problem = (
            f"the penalty depends on {names}, but its gradient there is None or 0: some operation has no second "
            f"derivative with respect to them, and drops it silently."
        )
        findings.append(Finding("error", problem, _REMEDY))
    return findings


def _unsettled(comparison: Comparison) -> Finding:
    return Finding(
        "warning",
        f"finite differences of the penalty do not settle, the nearest is {comparison.nearest:.1%} off, so its "
        f"gradient could not be verified: the model has kinks that the check does not round off, or "
        f"rounds coarsely.",
        "",
    )
