"""What a seed decides for every step, drawn by NumPy so that all frameworks get the same: batches, masks, mixing."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradreg_core.portable.networks import Network
from gradreg_experiments.paper.protocol import Protocol

__all__ = ["Masks", "Schedule", "Steps"]

_BATCHES, _MASKS, _MIXING = 1, 2, 3
"""Keep the generators of one seed apart; 0 is the initial weights'."""

Array = npt.NDArray[Any]


class Steps(NamedTuple):
    """The inputs of consecutive steps, (steps, ...) each."""

    numbers: Array
    """Of the steps, int32."""
    batches: Array
    """Indices of training images, (steps, B), int32."""
    rates: Array
    """Learning rates, float64."""
    masks: dict[str, Array]
    """Dropout masks of the loss's pass by path, (steps, B, units), already scaled; empty without dropout."""
    other_masks: dict[str, Array]
    """Those of the penalty's own pass."""
    partners: Array
    """Indices of the images to mix in, (steps, B), int32."""
    shares: Array
    """The weight of the first image of a mixture, (steps,); 1 without mixing."""


class Masks:
    """The dropout masks of one step, for a model that is called on the whole batch or on its parts.

    With `fraction=` the model is called on a random part and then on the rest. A mask does not depend on its image, so
    all that matters is that no two images share one: each call gets the rows after the last call's, and after the last
    row the first comes again, so that two passes over the whole batch have the same masks.

    Args:
        rows: (B, units) by path, in any framework.
    """

    def __init__(self, rows: Mapping[str, Any]) -> None:
        self._rows, self._start = rows, 0

    def next(self, count: int) -> dict[str, Any]:
        """The rows for the next `count` images."""
        stop = self._start + count
        chosen = {path: each[self._start : stop] for path, each in self._rows.items()}
        self._start = 0 if all(stop >= each.shape[0] for each in self._rows.values()) else stop
        return chosen


class Schedule:
    """All steps of one run.

    Batches are rows of a new permutation for each pass over the data, less an incomplete last row.

    Args:
        protocol: how to train.
        network: the portable network.
        seed: of the run.
    """

    def __init__(self, protocol: Protocol, network: Network, seed: int) -> None:
        self.protocol, self.network, self.seed = protocol, network, seed
        size = min(protocol.batch, protocol.train_size)
        rows = protocol.train_size // size
        generator = np.random.default_rng([seed, _BATCHES])
        passes = [
            generator.permutation(protocol.train_size)[: rows * size].reshape(rows, size)
            for _ in range(-(-protocol.steps // rows))
        ]
        self.batches = np.concatenate(passes)[: protocol.steps].astype(np.int32)

    def steps(self, start: int, stop: int) -> Steps:
        """The inputs of the steps from `start` up to `stop`, which do not depend on how a run is cut."""
        protocol, numbers = self.protocol, np.arange(start, min(stop, self.protocol.steps), dtype=np.int32)
        batches = self.batches[start:stop]
        masks = [self._masks(int(step), batches.shape[1]) for step in numbers]
        mixing = [self._mixing(int(step), batches.shape[1]) for step in numbers]
        partners = np.stack([row[order] for row, (order, _) in zip(batches, mixing, strict=True)])
        return Steps(
            numbers,
            batches,
            np.array([protocol.rate(int(step)) for step in numbers]),
            {path: np.stack([each[0][path] for each in masks]) for path in masks[0][0]},
            {path: np.stack([each[1][path] for each in masks]) for path in masks[0][1]},
            partners,
            np.array([share for _, share in mixing]),
        )

    def _masks(self, step: int, size: int) -> tuple[dict[str, Array], dict[str, Array]]:
        keep = self.protocol.keep
        generator = np.random.default_rng([self.seed, _MASKS, step])
        first, second = (
            {
                path: (generator.random((size, *shape)) < keep).astype(np.float32) / np.float32(keep)
                for path, shape in self.network.masks().items()
            }
            for _ in range(2)
        )
        return first, second

    def _mixing(self, step: int, size: int) -> tuple[Array, float]:
        if not self.protocol.mixup:
            return np.arange(size), 1.0
        generator = np.random.default_rng([self.seed, _MIXING, step])
        return generator.permutation(size), float(generator.beta(self.protocol.mixup, self.protocol.mixup))
