"""The generator's rounds on a CPU: by NumPy on the tensors' own memory, one opaque operation to a compiler.

Hundreds of small integer operations cost more in dispatch than in arithmetic, and take a compiler for CPUs a minute to
turn into code. The words are those of :func:`gradreg_core.random.threefry2x32`, which this calls.
"""

import torch
from torch import Tensor

from gradreg_core.random import threefry2x32
from gradreg_numpy.ops import DrawOps

__all__ = ["threefry2x32_cpu"]


@torch.library.custom_op("gradreg::threefry2x32", mutates_args=())
def threefry2x32_cpu(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    """Threefry-2x32-20 of int32 tensors on the CPU that broadcast against each other."""
    key, counter = (key0.numpy(), key1.numpy()), (counter0.numpy(), counter1.numpy())
    words = threefry2x32(DrawOps(), key, counter)
    return torch.from_numpy(words[0]), torch.from_numpy(words[1])


@threefry2x32_cpu.register_fake
def _(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(key0.shape, key1.shape, counter0.shape, counter1.shape)
    return key0.new_empty(shape), key0.new_empty(shape)
