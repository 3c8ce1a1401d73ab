"""Gradients that are lost below the smallest numbers of float16, found by scaling the penalty."""

import math
from collections.abc import Sequence

from gradreg_core.backend import Array
from gradreg_core.objective import Gradients, Objective
from gradreg_core.preflight.differences import AGREEMENT
from gradreg_core.preflight.report import Finding
from gradreg_core.preflight.subject import Subject

__all__ = ["are_finite", "underflow"]

_SCALES = (2.0**16, 2.0**12, 2.0**8, 2.0**4)
"""Loss scales, the largest first, from which torch.amp.GradScaler starts."""


def underflow(subject: Subject, objective: Objective, plain: Gradients) -> tuple[float, Gradients, list[Finding]]:
    """The largest loss scale that does not overflow, the gradients with it, and a finding if they differ.

    A power of two changes nothing but the exponents, so in float32 and bfloat16 the gradient stays the same to the last
    place.

    Args:
        subject: the call.
        objective: the penalty, with its own weights.
        plain: its value and gradients without a scale.
    """
    before = _present(plain)
    for scale in _SCALES:
        scaled = objective.gradients(subject.packed, scale)
        after = _present(scaled)
        if are_finite(subject, after):
            break
    else:
        return 1.0, plain, []
    change = _change(subject, before, after, scale)
    if not change > AGREEMENT:
        return scale, scaled, []
    if _change(subject, _present(objective.gradients(subject.packed)), before, 1.0) > AGREEMENT:
        return scale, scaled, []  # the model draws random numbers itself: no two gradients are equal
    problem = (
        f"the penalty's gradient underflows in half precision: {change:.0%} of it is lost, as the same gradient of "
        f"{scale:g} times the penalty shows."
    )
    remedy = (
        f"Use a loss scale: multiply the total by {scale:g} before the backward pass and divide the gradients by it in "
        f"float32 (torch.amp.GradScaler and keras.optimizers.LossScaleOptimizer do that), or compute in bfloat16. If "
        f"the training has one, it handles this."
    )
    return scale, scaled, [Finding("warning", problem, remedy)]


def _present(gradients: Gradients) -> list[Array]:
    return [gradient for gradient in (*gradients[1], gradients[2]) if gradient is not None]


def are_finite(subject: Subject, arrays: Sequence[Array]) -> bool:
    """Whether no component is NaN or infinite."""
    return all(math.isfinite(subject.length(array)) for array in arrays)


def _change(subject: Subject, before: Sequence[Array], after: Sequence[Array], scale: float) -> float:
    """The relative distance of two sets of gradients, of which the second is `scale` times the first."""
    ops = subject.ops
    apart, whole = 0.0, 0.0
    for small, large in zip(before, after, strict=True):
        wide = "float64" if ops.dtype(large) == "float64" else "float32"
        scaled = ops.astype(large, wide) * (1 / scale)
        apart += subject.length(ops.astype(small, wide) - scaled) ** 2
        whole += subject.length(scaled) ** 2
    return math.sqrt(apart / whole) if whole > 0 else 0.0
