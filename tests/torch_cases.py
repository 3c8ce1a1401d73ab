"""A small PyTorch model, its data and its gradients, for the tests of the PyTorch backend."""

import torch
from torch import nn

import gradreg_torch as gradreg

REG = gradreg.DataGrad(2.0) + gradreg.SpectReg(0.5, seed=3)
DOUBLE = torch.float64


def make(seed: int = 0, dtype: torch.dtype = DOUBLE) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Softplus(), nn.Linear(6, 3)).to(dtype)


def batch(step: int = 0, size: int = 6, dtype: torch.dtype = DOUBLE) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, 5, generator=generator, dtype=dtype), torch.randint(3, (size,), generator=generator)


def gradients(total: torch.Tensor, model: nn.Module) -> torch.Tensor:
    arrays = torch.autograd.grad(total, list(model.parameters()), allow_unused=True, materialize_grads=True)
    return torch.cat([array.flatten() for array in arrays])
