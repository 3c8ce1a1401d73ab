"""Compares the bits of draws, computed by the framework on its device, with the published ones."""

import hashlib
from typing import Any

import numpy as np

from gradreg_core.backend import Array, Backend
from gradreg_core.random import STREAM_DIRECTION, Draws

__all__ = ["PUBLISHED", "digest", "draws_agree"]

PUBLISHED = "5d21d37d40b7250036446b616e61c8cc8efa78b451bf4bebbf18c6bd79a62f63"
"""SHA-256 of the draws of `digest` on the CPU, the same in all frameworks."""
_SEED, _STEP, _SAMPLES, _SIZE = 7, 11, 64, 1001


def digest(ops: Backend, like: Array) -> str:
    """SHA-256 of words, signs, Gaussians, integers and uniforms, drawn by the framework on the device of `like`."""
    draws = Draws(ops, _SEED, ops.int32(_STEP, like), ops.arange(_SAMPLES, like))
    bits = hashlib.sha256()
    for kind in (Draws.words, Draws.signs, Draws.gaussians, Draws.integers, Draws.uniforms):
        drawn: Any = kind(draws, STREAM_DIRECTION, (0, 1), _SIZE)
        host = np.asarray(drawn.cpu() if hasattr(drawn, "cpu") else drawn)
        bits.update(np.ascontiguousarray(host).tobytes())
    return bits.hexdigest()


def draws_agree(ops: Backend, like: Array) -> bool:
    """Whether the draws on the device of `like` have the published bits."""
    return digest(ops, like) == PUBLISHED
