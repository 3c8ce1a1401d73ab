"""Draws on a CPU, computed by NumPy: forty operations on a few hundred numbers, of which dispatch is the larger part.

The numbers are those of :class:`gradreg_core.random.Draws`, whose methods run here over other primitives.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any

import numpy as np
import torch

from gradreg_core.random import Draws
from gradreg_numpy.ops import DrawOps
from gradreg_torch.threefry import rounds

__all__ = ["HostDraws"]


class _Ops(DrawOps):
    def constant(self, values: Any, dtype: str, like: np.ndarray) -> np.ndarray:
        return _table(values, dtype) if isinstance(values, tuple) else super().constant(values, dtype, like)

    def threefry2x32(self, key: Any, counter: Any) -> Any:
        return tuple(word.view(np.int32) for word in rounds(*(each.view(np.uint32) for each in (*key, *counter))))


@lru_cache
def _table(values: tuple[float, ...], dtype: str) -> np.ndarray:
    return np.asarray(values, dtype)


def _as_tensor(method: Callable[..., np.ndarray]) -> Callable[..., torch.Tensor]:
    @wraps(method)
    def converted(self: Draws, stream: int, projections: Any, size: int) -> torch.Tensor:
        return torch.from_numpy(method(self, stream, projections, size))

    return converted


@dataclass(frozen=True)
class HostDraws(Draws):
    """The draws for a step that the host knows and sample ids in its memory, as tensors."""

    @classmethod
    def of(cls, seed: int, step: int, sample_ids: torch.Tensor) -> "HostDraws":
        """The draws of a term."""
        return cls(_OPS, seed, step, sample_ids.numpy())

    words = _as_tensor(Draws.words)
    signs = _as_tensor(Draws.signs)
    gaussians = _as_tensor(Draws.gaussians)
    integers = _as_tensor(Draws.integers)
    uniforms = _as_tensor(Draws.uniforms)


_OPS: Any = _Ops()
