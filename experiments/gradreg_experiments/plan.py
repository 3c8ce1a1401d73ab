"""One training run as a value, so that every framework trains the same network on the same batches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradreg_core.portable.networks import Network
from gradreg_core.spec import JacobianTerm, Regularizer, Sum

__all__ = ["Masks", "Plan", "Steps", "Trained", "permuted_batches", "unseeded"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Any]


class Trained(NamedTuple):
    """The result of a run, as NumPy arrays."""

    params: dict[str, Any]
    """Weights and statistics by path."""
    losses: Array
    """The total loss, penalties included, at each step before its update: float64, shape (steps,)."""


class Steps(NamedTuple):
    """The inputs of consecutive steps; all arrays have the steps as their first axis."""

    numbers: Array
    """The numbers of the steps, int32."""
    batches: Array
    """Indices of the samples, (steps, B), int32."""
    rates: Array
    """Learning rates, float64."""
    masks: dict[str, Array]
    """The dropout masks of the loss's pass by path, (steps, B, *sample); empty without dropout."""
    apart_masks: dict[str, Array]
    """The dropout masks of the separate pass of the terms `apart`."""
    partners: Array
    """Indices of the samples to mix in, (steps, B), int32."""
    shares: Array
    """The weight of the first sample of a mixture, (steps,); 1 without mixing."""
    weights: dict[str, Array]
    """The weights of scheduled terms, (steps,), by their names in :meth:`Plan.terms`."""


@dataclass(frozen=True)
class Plan:
    """All inputs of a training run with Adam (beta 0.9 and 0.999, epsilon 1e-8). No framework draws numbers itself."""

    network: Network
    params: Arrays
    """Initial weights and statistics by path, NumPy arrays."""
    x: Array
    """Training inputs, (N, *network.input_shape)."""
    y: Array
    """Labels: integers (N,), or floats: probabilities (N, m), or the labels of `loss_fn`."""
    batches: Array
    """Indices into x, (steps, B). The row number is the `step` of the draws."""
    reg: Regularizer | None
    learning_rate: Callable[[int], float]
    """A function: step -> learning rate."""
    masks: Callable[[int], Arrays] | None = None
    """A function: step -> dropout masks by path, (B, *sample), already scaled; None for no dropout."""
    apart: Regularizer | None = None
    """Terms with a separate forward pass."""
    apart_masks: Callable[[int], Arrays] | None = None
    """A function: step -> the dropout masks of that pass."""
    mixing: Callable[[int], tuple[Array, float]] | None = None
    """A function: step -> (order of the batch to mix in, weight of the first sample); None for no mixing."""
    loss_fn: Callable[[Any, Any], Any] | None = None
    """A function: (outputs, y) -> one loss per sample; None for cross-entropy."""
    scale: float = 1.0
    """The scale of the total."""
    dtype: str = "float32"
    chunk: int = 200
    """The number of steps whose masks are drawn together, which bounds their memory."""

    @property
    def soft(self) -> bool:
        """Whether the labels are floats."""
        return np.issubdtype(np.asarray(self.y).dtype, np.floating)

    def chunks(self) -> Iterator[Steps]:
        """All steps, at most `chunk` at a time."""
        for start in range(0, len(self.batches), self.chunk):
            yield self.steps(start, start + self.chunk)

    def steps(self, start: int, stop: int) -> Steps:
        """The inputs of the steps from `start` up to `stop`; they do not depend on how a run is split."""
        numbers = np.arange(start, min(stop, len(self.batches)), dtype=np.int32)
        batches = np.asarray(self.batches[start:stop], np.int32)
        partners, shares = batches, np.ones(len(numbers))
        if self.mixing is not None:
            orders, weights = zip(*(self.mixing(int(step)) for step in numbers), strict=True)
            partners = np.stack([batch[order] for batch, order in zip(batches, orders, strict=True)])
            shares = np.array(weights)
        return Steps(
            numbers,
            batches,
            np.array([self.learning_rate(int(step)) for step in numbers], np.float64),
            _stacked(self.masks, numbers),
            _stacked(self.apart_masks if self.apart is not None else None, numbers),
            partners,
            shares,
            {
                name: np.array([weight(int(step)) for step in numbers], np.float64)
                for name, weight in _schedules(self).items()
            },
        )

    def terms(self, weights: Mapping[str, Any]) -> tuple[Regularizer | None, Regularizer | None]:
        """`reg` and `apart`, with the weights of scheduled terms taken from one step of :attr:`Steps.weights`.

        A schedule is any function of a Python int, which a compiled loop cannot call.
        """
        return _with_weights("reg", self.reg, weights), _with_weights("apart", self.apart, weights)


def _stacked(masks: Callable[[int], Arrays] | None, numbers: Array) -> dict[str, Array]:
    if masks is None:
        return {}
    drawn = [masks(int(step)) for step in numbers]
    return {path: np.stack([arrays[path] for arrays in drawn]) for path in drawn[0]}


def _schedules(plan: Plan) -> dict[str, Callable[[int], float]]:
    return {
        f"{name}.{index}": term.weight
        for name, reg in (("reg", plan.reg), ("apart", plan.apart))
        for index, term in enumerate(reg.terms if reg is not None else ())
        if callable(term.weight)
    }


def _with_weights(name: str, reg: Regularizer | None, weights: Mapping[str, Any]) -> Regularizer | None:
    if reg is None or not any(callable(term.weight) for term in reg.terms):
        return reg
    terms = ((f"{name}.{index}", term) for index, term in enumerate(reg.terms))
    return Sum(tuple(replace(term, weight=_constant(weights[key])) if key in weights else term for key, term in terms))


def _constant(weight: Any) -> Callable[[Any], Any]:
    return lambda step: weight


def unseeded(reg: Regularizer | None) -> Regularizer | None:
    """The regularizer with seed 0 in every term: the same for runs of all seeds."""
    if reg is None:
        return None
    return Sum(tuple(replace(term, seed=0) if isinstance(term, JacobianTerm) else term for term in reg.terms))


class Masks:
    """The dropout masks of one step, for a model called on the whole batch or on its parts.

    With `fraction=` the model is called on a random part and then on the rest. A mask does not depend on its sample, so
    it only matters that no two samples share one: each call gets the rows after the last call's, and after the last
    row starts again at the first, so two passes over the whole batch have the same masks.

    Args:
        rows: masks (B, *sample) by path, in any framework.
    """

    def __init__(self, rows: Arrays) -> None:
        self._rows, self._start = rows, 0

    def next(self, count: int) -> dict[str, Any]:
        """The rows for the next `count` samples."""
        stop = self._start + count
        chosen = {path: rows[self._start : stop] for path, rows in self._rows.items()}
        self._start = 0 if all(stop >= rows.shape[0] for rows in self._rows.values()) else stop
        return chosen


def permuted_batches(count: int, size: int, steps: int, generator: np.random.Generator) -> Array:
    """Rows of indices below `count`: a new permutation per epoch, without an incomplete last row."""
    size = min(size, count)
    rows = count // size
    passes = [generator.permutation(count)[: rows * size].reshape(rows, size) for _ in range(-(-steps // rows))]
    return np.concatenate(passes)[:steps].astype(np.int32)
