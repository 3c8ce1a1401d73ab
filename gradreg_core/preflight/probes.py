"""Probes of one batch: each looks for one problem."""

import math
from dataclasses import replace

from gradreg_core.backend import Array
from gradreg_core.forward import Forward, application
from gradreg_core.layout import is_floating
from gradreg_core.norms import identity
from gradreg_core.preflight.report import Finding
from gradreg_core.preflight.subject import Subject, jacobian_terms
from gradreg_core.spec import JacobianPenalty, Sum

__all__ = ["cut_samples", "empty_terms", "is_random", "kinks", "probabilities", "random_pairs"]

_SMALLER_H = 4
"""The divisor of h in the check of method='difference'."""
_STEADY = 0.25
"""How much the gradient by difference may change with h. On a smooth model the change is of order h: 0.01."""
_SUM_TOLERANCE = 1e-2
"""The tolerance of a sum of probabilities: two units in the last place of bfloat16."""
_NEGLIGIBLE_NORM = 1e-5
"""A hundred times the rounding of float32. A Gaussian is as small as that once in 100,000 draws."""
_ROUNDING = {"float64": 1e-11, "float32": 1e-4}
"""How far equal passes may differ, relative to the outputs; half precision may add to it."""
_ROUNDING_OF_HALF = 5e-2
_PASSES = 4
"""Pairs of passes compared: a mask that drops little is often the same twice."""


def probabilities(subject: Subject, forward: Forward) -> list[Finding]:
    """Outputs that are already distributions, although logits are expected."""
    ops, values = subject.ops, subject.ops.stop_gradient(forward.logits)
    if forward.layout.canonical[2] < 2 or not is_floating(ops.dtype(values)):
        return []
    excess = ops.sum(values, 2) - 1.0
    excess = ops.where(excess * excess > _SUM_TOLERANCE**2, excess * excess, 0.0)
    if float(ops.sum(ops.where(values < 0, values, 0.0), (0, 1, 2))) or float(ops.sum(excess, (0, 1))):
        return []
    return [
        Finding(
            "warning",
            "the outputs of each sample are positive with sum 1, as after a softmax. The loss applies a softmax of "
            "its own, and the penalties are of the logits' Jacobian.",
            "Return the logits, or pass the loss as loss_fn=.",
        )
    ]


def empty_terms(subject: Subject) -> list[Finding]:
    """Terms that penalise nothing with one draw for the batch, and something with a draw for each sample."""

    def norm(term: JacobianPenalty) -> float:
        with subject.ops.repeatable(subject.model):
            return subject.number(subject.penalty(subject.packed, term))

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
                    f"{shared:.1e}, with one for each sample {own:.1e}. This is expected after batch normalisation "
                    f"in training mode: the sum of the projected outputs does not depend on x.",
                    "Leave draw='per_batch' out, or use GroupNorm or LayerNorm.",
                )
            )
    return findings


def _apart(subject: Subject, first: Array, second: Array) -> bool:
    """Whether two results of one computation differ by more than rounding."""
    ops = subject.ops
    first, second = ops.stop_gradient(first), ops.stop_gradient(second)
    tolerance = _ROUNDING.get(ops.dtype(first), _ROUNDING_OF_HALF)
    return not subject.length(first - second) <= tolerance * subject.length(first)


def is_random(subject: Subject) -> bool:
    """Whether the model draws random numbers that the backend cannot reset, so that differences are meaningless."""

    def outputs() -> Array:
        with subject.ops.repeatable(subject.model):
            return subject.forward(subject.samples(subject.packed), ()).outputs

    first = outputs()
    return any(_apart(subject, first, outputs()) for _ in range(_PASSES - 1))


def random_pairs(subject: Subject) -> list[Finding]:
    """Whether the two passes of a difference are of two random functions, whose difference is divided by h."""
    ops, model, x = subject.ops, subject.model, subject.packed
    if not any(term.method == "difference" for term in jacobian_terms(subject.reg)):
        return []
    apply = application(subject.call, subject.arguments)

    def differ() -> bool:
        outputs, _, moved = ops.call_twice(model, apply, x, x)
        return _apart(subject, outputs, moved)

    with ops.repeatable(model):
        if not any(differ() for _ in range(_PASSES)):
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
    """Whether a penalty by difference has a gradient that depends on h, as it does on networks with kinks alone."""
    terms = [term for term in jacobian_terms(subject.reg) if term.method == "difference"]
    if not terms:
        return []

    def slope(divisor: int) -> Array:
        nearer = Sum(tuple(replace(term, h=term.h / divisor) for term in terms))
        return subject.objective(nearer).gradients(subject.packed)[2]

    far, near = slope(1), slope(_SMALLER_H)
    if far is None or near is None:
        return []
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


def cut_samples(subject: Subject, whole: Forward, is_coupled: bool) -> list[Finding]:
    """Whether samples have the same outputs in a part of the batch as in the whole batch, for `fraction=`.

    A model that closes over an array with a row for each sample pairs the samples of a part with the rows of others.
    """
    ops, batch = subject.ops, subject.arguments.batch
    terms = [term for term in (given.lower() for given in subject.reg.terms) if term is not None]
    size = min((math.ceil(term.fraction * batch) for term in terms), default=batch)
    if size >= batch or ops.holds_samples(subject.model, batch):  # the engine then cuts nothing
        return []
    chosen = ops.arange(batch, subject.arguments.like)[batch - size :]
    with ops.repeatable(subject.model):
        if ops.draws_numbers(lambda: subject.forward(whole.samples, ()).outputs):
            return []  # random masks differ between any two passes
    with ops.repeatable(subject.model):
        again = subject.forward(whole.samples, ()).outputs
    with ops.repeatable(subject.model):
        part = subject.forward(whole.samples.take(chosen), ()).outputs
    if not _apart(subject, ops.take(again, chosen), part):
        return []
    if is_coupled:
        return [
            Finding(
                "warning",
                f"with fraction={size / batch:g} the penalised part passes through the model alone, and its outputs "
                f"differ from those in the whole batch, because the samples are coupled.",
                "Leave fraction= out, or use every= instead.",
            )
        ]
    return [
        Finding(
            "error",
            f"with fraction={size / batch:g} a part of the batch passes through the model alone, and its outputs are "
            f"different in the whole batch: the model holds arrays with a row for each sample (masks, conditions, "
            f"edges), which are not cut with it.",
            "Pass them as inputs, x = gradreg.Inputs(x, mask), or leave fraction= out and use every=.",
        )
    ]
