"""The transpose of a convolution: equal to PyTorch's own, and to finite differences."""

from typing import Any

import pytest
import torch

from gradreg_torch.convolution import Geometry, input_gradient

CONVOLUTIONS = [
    ((3, 4, 9), (6, 4, 3), (2, 1, 1, 1)),
    ((3, 4, 6, 6), (6, 4, 3, 3), (1, 1, 1, 1)),
    ((3, 1, 9, 8), (6, 1, 3, 3), (2, 2, 2, 1)),
    ((2, 1, 7, 7), (20, 1, 3, 3), (2, 1, 1, 1)),
    ((3, 4, 6, 6), (6, 2, 3, 3), (1, 0, 1, 2)),
    ((2, 2, 4, 3, 3), (3, 2, 2, 2, 2), (1, 0, 1, 1)),
]


@pytest.mark.parametrize(("shape", "kernel", "moves"), CONVOLUTIONS)
def test_the_transpose_agrees_with_pytorch_and_finite_differences(shape: Any, kernel: Any, moves: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    w = torch.randn(kernel, dtype=torch.float64, requires_grad=True)
    y = {3: torch.conv1d, 4: torch.conv2d, 5: torch.conv3d}[len(shape)](x, w, None, *moves)
    g = torch.randn_like(y).requires_grad_()
    geometry = Geometry.of(w, *moves)
    (stock,) = torch.autograd.grad(y, x, g)
    torch.testing.assert_close(input_gradient(g, w, x, geometry), stock)
    assert torch.autograd.gradcheck(lambda g, w: input_gradient(g, w, x, geometry), (g, w), fast_mode=True)
    assert torch.autograd.gradgradcheck(lambda g, w: input_gradient(g, w, x, geometry), (g, w), fast_mode=True)
