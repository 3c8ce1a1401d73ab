"""The numbers of the samples of a micro-batch."""

from collections.abc import Callable
from typing import Any

from keras import ops

__all__ = ["numbering"]


def numbering(optimizer: Any) -> Callable[[Any], Any]:
    """A function of the samples' places in a micro-batch -> their numbers in the batch of one update.

    It holds for the micro-batch that the optimizer is at.

    Args:
        optimizer: its `gradient_accumulation_steps` micro-batches make one update.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    parts, count = inner.gradient_accumulation_steps, inner._iterations.value
    if not parts:
        return lambda places: places
    return lambda places: places * parts + ops.cast(ops.mod(count, parts), places.dtype)
