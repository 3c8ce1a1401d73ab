"""A module of Lightning that classifies digits with a criterion in its training step, and what it takes to train it."""

from typing import Any

import lightning
import torch
from lightning.pytorch import LightningModule
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, TensorDataset

import gradreg_torch as gradreg


class Digits(LightningModule):
    """The user's module, but for the two lines with the criterion."""

    def __init__(self, reg: gradreg.Regularizer, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 10)).to(dtype)
        self.criterion = gradreg.Criterion(reg=reg, sample_ids="rank")
        self.gradients: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any, index: int) -> Tensor:
        loss, parts = self.criterion(self, *batch, step=self.global_step)
        self.log_dict(parts.log(self.criterion.reg))
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.gradients = self.gradients or [parameter.grad.clone() for parameter in self.parameters()]

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 0.01)


class ShardedDigits(Digits):
    """Its processes have parts of the parameters."""

    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for module in (self.net[0], self.net[2], self.net):
            fully_shard(module, mesh=mesh)


def digits(size: int = 24, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images[:size] / 16, dtype=dtype), torch.tensor(labels[:size])


def trainer(**chosen: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    common = {"enable_checkpointing": False, "accelerator": "cpu", "devices": 1, "max_steps": 2}
    return lightning.Trainer(**{**quiet, **common, **chosen})


def loader(size: int, batch: int, dtype: torch.dtype = torch.float64) -> Any:
    return DataLoader(TensorDataset(*digits(size, dtype)), batch_size=batch)


def parameters(module: LightningModule) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
