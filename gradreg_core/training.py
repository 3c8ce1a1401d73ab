"""One training run as a value, so that every framework can train the same network on the same batches.

``gradreg_torch.training.train(plan)`` and its siblings carry a plan out with Adam (beta 0.9 and 0.999, epsilon 1e-8).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gradreg_core.portable.networks import Network
from gradreg_core.spec import Regularizer

__all__ = ["Plan", "Trained"]

Arrays = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What to train: everything is given, nothing is left to a framework's own generator."""

    network: Network
    params: Arrays
    """Initial weights and statistics by path, NumPy arrays."""
    x: Any
    """Training inputs, a NumPy array (N, *network.input_shape)."""
    y: Any
    """Integer labels, a NumPy array (N,)."""
    batches: Any
    """Indices into x for each step, an integer NumPy array (steps, B). The step's number is the `step` of the draws."""
    reg: Regularizer | None
    learning_rate: Callable[[int], float]
    """step -> learning rate."""
    masks: Callable[[int], Arrays] | None = None
    """step -> dropout masks by path, NumPy arrays (B, *sample), already scaled; None for no dropout."""
    dtype: str = "float32"


class Trained(NamedTuple):
    """What training gave, as NumPy arrays."""

    params: dict[str, Any]
    """Weights and statistics by path."""
    losses: Any
    """The total loss (penalties included) at each step before its update, float64, shape (steps,)."""
