"""The interface of a trainer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradreg_core.errors import UnsupportedError
from gradreg_core.portable.networks import Network
from gradreg_experiments.plan import Plan, Trained

__all__ = ["Tick", "Trainer", "silent"]

Tick = Callable[[int], None]
"""A function called with the number of steps finished since the last call."""
Arrays = Mapping[str, Any]


def silent(steps: int) -> None:
    """Ignore the progress."""


class Trainer(ABC):
    """Trains and evaluates portable networks in one framework; NumPy arrays in and out."""

    @abstractmethod
    def train(self, plan: Plan, tick: Tick = silent) -> Trained:
        """Train with Adam, one update per row of ``plan.batches``."""

    def train_together(self, plans: Sequence[Plan], tick: Tick = silent) -> list[Trained]:
        """Train plans that differ only in their seeds, as one program.

        Raises:
            UnsupportedError: this trainer cannot do that.
        """
        raise UnsupportedError(
            f"{type(self).__name__}: expected one seed per program, got {len(plans)}. Omit --together and use "
            "--workers, or choose a trainer of several seeds, such as --backend jax."
        )

    @abstractmethod
    def logits(self, network: Network, params: Arrays, x: Any) -> Any:
        """The outputs without dropout, (N, m)."""

    def count_right(self, network: Network, params: Arrays, x: Any, y: Any, batch: int) -> int:
        """The number of samples classified correctly, evaluated `batch` at a time."""
        starts = range(0, len(y), batch)
        outputs = [self.logits(network, params, x[start : start + batch]) for start in starts]
        return int((np.concatenate(outputs).argmax(-1) == y).sum())

    @abstractmethod
    def input_gradient(self, network: Network, params: Arrays, x: Any, y: Any) -> Any:
        """The gradient of each sample's cross-entropy with respect to its input, in the shape of x, without dropout."""

    @abstractmethod
    def jacobian_norms(self, network: Network, params: Arrays, x: Any) -> Any:
        """||dz/dx||_F of each sample without dropout, (N,)."""
