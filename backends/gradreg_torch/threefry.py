"""The generator's rounds on a CPU: by NumPy on the tensors' own memory, one opaque operation to a compiler.

Hundreds of small integer operations cost more in dispatch than in arithmetic, and take a compiler for CPUs a minute to
turn into code. The words are those of :func:`gradreg_core.random.threefry2x32`, computed in place over unsigned words.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gradreg_core.random import PARITY, ROTATIONS

__all__ = ["rounds", "threefry2x32_cpu", "threefry2x32_eager"]


def threefry2x32_eager(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    """Threefry-2x32-20 of int32 tensors on the CPU that broadcast against each other."""
    words = rounds(*(each.numpy().view(np.uint32) for each in (key0, key1, counter0, counter1)))
    first, second = (torch.from_numpy(each.view(np.int32)) for each in words)
    return first, second


def rounds(key0: np.ndarray, key1: np.ndarray, counter0: np.ndarray, counter1: np.ndarray) -> Sequence[np.ndarray]:
    """Threefry-2x32-20 of uint32 arrays that broadcast against each other."""
    schedule = (key0, key1, key0 ^ key1 ^ np.uint32(PARITY))
    shape = np.broadcast_shapes(*(each.shape for each in (key0, key1, counter0, counter1)))
    x0, x1, carry = np.empty(shape, np.uint32), np.empty(shape, np.uint32), np.empty(shape, np.uint32)
    np.add(counter0, key0, out=x0)
    np.add(counter1, key1, out=x1)
    for group in range(5):
        for bits in ROTATIONS[group % 2]:
            x0 += x1
            np.right_shift(x1, 32 - bits, out=carry)
            x1 <<= bits
            x1 |= carry
            x1 ^= x0
        x0 += schedule[(group + 1) % 3]
        x1 += schedule[(group + 2) % 3]
        x1 += np.uint32(group + 1)
    return x0, x1


@torch.library.custom_op("gradreg::threefry2x32", mutates_args=())
def threefry2x32_cpu(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    """The same as one operation that a compiler leaves alone."""
    return threefry2x32_eager(key0, key1, counter0, counter1)


@threefry2x32_cpu.register_fake
def _(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(key0.shape, key1.shape, counter0.shape, counter1.shape)
    return key0.new_empty(shape), key0.new_empty(shape)
