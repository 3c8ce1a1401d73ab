"""The draws of a term, computed by NumPy."""

import numpy as np

from gradreg_core.host_draws import HostPrimitives
from gradreg_core.random import Draws
from gradreg_numpy.functions import Array

__all__ = ["draws"]

_PRIMITIVES = HostPrimitives()


def draws(seed: int, step: int, sample_ids: Array) -> Draws:
    """The draws of a term with `seed` at `step` for samples with `sample_ids` (B,), any integer type."""
    return Draws(_PRIMITIVES, seed, step, sample_ids.astype(np.int32))
