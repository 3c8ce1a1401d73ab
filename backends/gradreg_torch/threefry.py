"""The generator's rounds on a CPU, by NumPy on the tensors' own memory: a single opaque operation for a compiler.

A compiler for CPUs takes a minute to turn hundreds of small integer operations into code.
"""

import numpy as np
import torch
from torch import Tensor

from gradreg_core.threefry import uint32_rounds

__all__ = ["threefry2x32_cpu", "threefry2x32_eager"]


def threefry2x32_eager(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    """Threefry-2x32-20 of int32 tensors on the CPU that broadcast against each other."""
    words = [tensor.numpy().view(np.uint32) for tensor in (key0, key1, counter0, counter1)]
    first, second = uint32_rounds((words[0], words[1]), (words[2], words[3]))
    return torch.from_numpy(first.view(np.int32)), torch.from_numpy(second.view(np.int32))


@torch.library.custom_op("gradreg::threefry2x32", mutates_args=())
def threefry2x32_cpu(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    """The same as one operation, which a compiler leaves alone."""
    return threefry2x32_eager(key0, key1, counter0, counter1)


@threefry2x32_cpu.register_fake
def _(key0: Tensor, key1: Tensor, counter0: Tensor, counter1: Tensor) -> tuple[Tensor, Tensor]:
    shape = torch.broadcast_shapes(key0.shape, key1.shape, counter0.shape, counter1.shape)
    return key0.new_empty(shape), key0.new_empty(shape)
