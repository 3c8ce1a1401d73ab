"""What the calls give back, the same in every backend."""

from typing import Any, NamedTuple

__all__ = ["Measures", "Parts"]


class Parts(NamedTuple):
    """What the total of ``loss(model, x, y, reg)`` is made of: total = loss + sum(penalty)."""

    loss: Any
    """The data loss, a scalar."""
    penalty: tuple[Any, ...]
    """The weighted value of each term of the regularizer, in its order: scalars."""
    outputs: Any
    """The model's outputs on the whole batch."""


class Measures(NamedTuple):
    """Unsquared norms of each sample's Jacobian J = dz/dx at the input, arrays of shape (B,)."""

    frobenius: Any
    """||J||_F."""
    spectral: Any
    """The largest singular value of J, at most ||J||_F."""
    loss_gradient: Any | None
    """||dM/dx||, the norm of the loss's input gradient: ||J^T (f - y)|| for cross-entropy. None without labels."""
