"""The smooth stand-ins: arguments, shapes and dtypes are those of the functions that they stand in for."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradreg_torch.kinks import Smoothed

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
REPLACED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda x: x.clone().relu_(),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, min_val=-0.5, max_val=0.25),
    "leaky relu": lambda x: F.leaky_relu(x, 0.1),
    "prelu": lambda x: F.prelu(x, torch.full((3,), 0.25, dtype=x.dtype)),
    "elu": lambda x: F.elu(x, alpha=0.5),
    "celu": lambda x: F.celu(x, alpha=0.5),
    "selu": F.selu,
    "softshrink": F.softshrink,
    "abs": abs,
    "clamp": lambda x: x.clamp(min=-0.5),
    "clamp to a maximum": lambda x: torch.clamp_max(x, 0.5),
    "maximum": lambda x: torch.maximum(x, 0.5 * x),
    "minimum": lambda x: x.minimum(0.5 * x),
    "largest": torch.max,
    "largest of two": lambda x: torch.max(x, 0.5 * x),
    "largest over an axis": lambda x: x.max(1, keepdim=True).values,
    "amin": lambda x: x.amin((2, 3)),
    "max pooling": lambda x: F.max_pool2d(x, 3, stride=2, padding=1),
    "adaptive max pooling": lambda x: F.adaptive_max_pool2d(x, (None, 2)),
}
LEFT_ALONE: dict[str, Callable[[Tensor], Tensor]] = {
    "integers": lambda x: torch.relu((10 * x).int()),
    "ceiling": lambda x: F.max_pool2d(x, 3, ceil_mode=True),
    "dilation": lambda x: F.max_pool2d(x, 2, dilation=2),
    "unequal windows": lambda x: F.adaptive_max_pool2d(x, 3),
    "tanh": torch.tanh,
}


@pytest.mark.parametrize("name", REPLACED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stand_in_has_the_shape_and_dtype_of_the_function(name: str, dtype: torch.dtype) -> None:
    function, x = REPLACED[name], X.to(dtype)
    sharp = function(x)
    with Smoothed():
        smooth = function(x)
    assert (smooth.shape, smooth.dtype) == (sharp.shape, sharp.dtype)
    assert not torch.equal(smooth, sharp)


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_other_functions_are_left_alone(name: str) -> None:
    with Smoothed():
        smooth = LEFT_ALONE[name](X)
    assert torch.equal(smooth, LEFT_ALONE[name](X))
