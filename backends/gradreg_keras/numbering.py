"""The numbers of the samples of a micro-batch."""

from collections.abc import Callable
from typing import Any

from keras import ops

__all__ = ["numbering"]


def numbering(optimizer: Any) -> Callable[[Any], Any]:
    """A function from the samples' places in a micro-batch to their numbers in the batch of one update.

    It is valid for the optimizer's current micro-batch.

    Args:
        optimizer: `gradient_accumulation_steps` of its micro-batches make one update.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # inside a LossScaleOptimizer
    parts, count = inner.gradient_accumulation_steps, inner._iterations.value
    if not parts:
        return lambda places: places
    return lambda places: places * parts + ops.cast(ops.mod(count, parts), places.dtype)
