"""The norms of each sample's Jacobian, for monitoring."""

import math
from typing import Any

from gradreg_core import engine
from gradreg_core.backend import Array
from gradreg_core.forward import Forward
from gradreg_core.norms import safe_sqrt
from gradreg_core.projections import orthonormal, top_singular
from gradreg_core.spec import JacobianPenalty

__all__ = ["norm", "norms"]

_POWER_ITERATIONS = 30


def norm(forward: Forward, **chosen: Any) -> Array:
    """||J_i^T W_i|| of each sample, shape (B,)."""
    return engine.per_sample(JacobianPenalty(1.0, squared=False, **chosen), forward)


def norms(forward: Forward, projections: int | None) -> tuple[Array, Array]:
    """(||J||_F, sigma_max) of each sample: exact, from J J^T, or estimated from this many projections."""
    ops = forward.call.ops
    batch, size = forward.layout.shape[0], math.prod(forward.layout.canonical[1:])
    if projections is not None:
        frobenius = norm(forward, projection=orthonormal(min(projections, size), unbiased=True))
        return frobenius, norm(forward, projection=top_singular(_POWER_ITERATIONS))
    rows = engine.jacobian_rows(forward)
    jacobian = ops.moveaxis(ops.reshape(rows, (size, batch, -1)), 0, 1)
    gram = ops.matmul(jacobian, ops.moveaxis(jacobian, 1, 2))
    nothing = gram * 0  # 0, or NaN if an entry is not finite, for which no eigenvalues are defined
    top = ops.eigvalsh(ops.where(nothing == 0, gram, 0.0))[:, -1] + ops.sum(nothing, (1, 2))
    return safe_sqrt(ops, ops.sum(jacobian * jacobian, (1, 2))), safe_sqrt(ops, top)
