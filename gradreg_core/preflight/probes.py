"""Probes of one batch: each looks for one thing that would go wrong."""

from dataclasses import replace

from gradreg_core.backend import Array
from gradreg_core.forward import application
from gradreg_core.layout import Layout, is_floating
from gradreg_core.norms import identity
from gradreg_core.preflight.differences import AGREEMENT
from gradreg_core.preflight.report import Finding
from gradreg_core.preflight.subject import Subject, jacobian_terms
from gradreg_core.spec import JacobianPenalty, Sum

__all__ = ["empty_terms", "kinks", "probabilities", "random_pairs"]

_SMALLER_H = 4
"""The divisor of h in the check of method='difference'."""
_STEADY = 0.25
"""How much the gradient by difference may change with h. On a smooth model the change is of order h: 0.01."""
_SUM_TOLERANCE = 1e-2
"""Of a sum of probabilities: two units in the last place of bfloat16."""
_NEGLIGIBLE_NORM = 1e-5
"""A hundred times the rounding of float32. A Gaussian is as small as that once in 100,000 draws."""


def probabilities(subject: Subject, outputs: Array) -> list[Finding]:
    """Outputs that are distributions already, where logits are expected."""
    ops = subject.ops
    layout = Layout.of("check", ops.shape(outputs), subject.arguments.batch, subject.call.class_axis)
    values = ops.stop_gradient(layout.to_canonical(ops, outputs))
    if layout.canonical[2] < 2 or not is_floating(ops.dtype(values)):
        return []
    excess = ops.sum(values, 2) - 1.0
    excess = ops.where(excess * excess > _SUM_TOLERANCE**2, excess * excess, 0.0)
    if float(ops.sum(ops.where(values < 0, values, 0.0), (0, 1, 2))) or float(ops.sum(excess, (0, 1))):
        return []
    return [
        Finding(
            "warning",
            "the outputs of each sample are positive with sum 1, as behind a softmax. The loss applies a softmax of "
            "its own, and the penalties are of the logits' Jacobian.",
            "Return the logits, or pass the loss as loss_fn=.",
        )
    ]


def empty_terms(subject: Subject) -> list[Finding]:
    """Terms that penalise nothing with one draw for the batch, and something with a draw for each sample."""

    def norm(term: JacobianPenalty) -> float:
        with subject.ops.repeatable(subject.model):
            return subject.number(subject.penalty(subject.x, term))

    findings = []
    for given in subject.reg.terms:
        lowered = given.lower()
        if lowered is None or lowered.draw != "per_batch":
            continue
        term = replace(lowered, weight=1.0, every=1, fraction=1.0, scale=1.0, squared=False, phi=identity())
        shared, own = norm(term), norm(replace(term, draw="per_sample"))
        if shared <= _NEGLIGIBLE_NORM * own and own > 0:
            findings.append(
                Finding(
                    "warning",
                    f"{given!r} penalises nothing but rounding: with one direction for the whole batch the norm is "
                    f"{shared:.1e}, with one for each sample {own:.1e}. This is expected behind batch normalisation "
                    f"in training mode: the sum of the projected outputs does not depend on x.",
                    "Leave draw='per_batch' out, or use GroupNorm or LayerNorm.",
                )
            )
    return findings


def random_pairs(subject: Subject) -> list[Finding]:
    """Whether the two passes of a difference are of two random functions, whose difference is divided by h."""
    ops, model, x = subject.ops, subject.model, subject.x
    if not any(term.method == "difference" for term in jacobian_terms(subject.reg)):
        return []
    with ops.repeatable(model):
        outputs, _, moved = ops.call_twice(model, application(subject.call, subject.arguments), x, x)
        first, second = map(ops.stop_gradient, (outputs, moved))
    if subject.length(first - second) <= AGREEMENT * subject.length(first):
        return []
    return [
        Finding(
            "error",
            "method='difference' passes through the model twice, and on equal inputs the two passes differ: a layer "
            "draws random numbers that are out of the backend's reach.",
            "Pass the model itself instead of a function that calls it, or use method='jvp'.",
        )
    ]


def kinks(subject: Subject) -> list[Finding]:
    """Whether a penalty by difference has a gradient that depends on h, as it has on networks with kinks alone."""
    ops, model, x = subject.ops, subject.model, subject.x
    terms = [term for term in jacobian_terms(subject.reg) if term.method == "difference"]
    if not terms:
        return []

    def slope(divisor: int) -> Array:
        nearer = Sum(tuple(replace(term, h=term.h / divisor) for term in terms))
        with ops.repeatable(model):
            value, pullback = ops.vjp(lambda point: ops.reshape(subject.penalty(point, nearer), (1,)), x)
            return pullback(value * 0 + 1)

    far, near = slope(1), slope(_SMALLER_H)
    change = subject.length(far - near) / max(subject.length(near), 1e-30)
    if change <= _STEADY:
        return []
    return [
        Finding(
            "warning",
            f"the gradient of the penalty by method='difference' changes by {change:.0%} when h is divided by "
            f"{_SMALLER_H}: the model has kinks (ReLU, max pooling), and each that lies within h ||v|| adds "
            f"a jump divided by h.",
            "Use the output side or method='jvp', or smooth layers (GELU, tanh, average pooling).",
        )
    ]
