"""The tasks: data with few training samples, and networks, many of which train at the same time.

The parameters of R networks are stacked along the first axis of their arrays, as are the inputs, (R, B, ...).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gradreg_experiments.data.digits import load_dataset

__all__ = ["ACTIVATIONS", "CHECKS", "TASKS", "Parts", "Task", "initial", "load", "outputs"]

ACTIVATIONS = {"relu": torch.relu, "gelu": F.gelu, "tanh": torch.tanh}

Layer = tuple[Any, ...]
"""("dense", units), ("conv", channels, kernel, stride), ("pool",), ("flatten",) or ("activation",)."""

_SPLIT_SEED = 20170926


@dataclass(frozen=True)
class Task:
    """A data set, its scaling, the network, and the training."""

    name: str
    data: str
    """Tasks on the same data are left out together when a default is chosen."""
    train: int
    layers: tuple[Layer, ...]
    activation: str = "relu"
    scale: float = 1.0
    """The inputs' standard deviation: they are standardised on the training set and multiplied by this."""
    initial: str = "default"
    """"default": uniform within 1 / sqrt(inputs), biases too, as in PyTorch's layers; "he": normal with variance
    2 / inputs, biases 0."""
    steps: int = 500
    seeds: int = 5


class Parts:
    """The data of one seed: a training set drawn by it, and validation and test samples shared by all seeds."""

    def __init__(self, train: Sequence[Any], validation: Sequence[Any], test: Sequence[Any]) -> None:
        self.train, self.validation, self.test = (
            (torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.int64))
            for x, y in (train, validation, test)
        )


def _mlp(*units: int, classes: int) -> tuple[Layer, ...]:
    hidden = [layer for count in units for layer in (("dense", count), ("activation",))]
    return (("flatten",), *hidden, ("dense", classes))


_MNIST_CONVOLUTIONS: tuple[Layer, ...] = (
    *(("conv", 8, 5, 4), ("activation",), ("conv", 16, 3, 1), ("activation",)),
    *(("flatten",), ("dense", 64), ("activation",), ("dense", 10)),
)
_DIGITS_CONVOLUTIONS: tuple[Layer, ...] = (
    *(("conv", 8, 3, 1), ("activation",), ("pool",), ("conv", 16, 2, 1), ("activation",)),
    *(("flatten",), ("dense", 64), ("activation",), ("dense", 10)),
)

PIXELS = 10**-0.5
"""Nearly the deviation of images whose pixels lie between 0 and 1 (MNIST: 0.31, digits: 0.38)."""

TASKS = (
    Task("wine", "wine", 30, _mlp(64, 64, classes=3), "gelu", seeds=10),
    Task("rings", "rings", 150, _mlp(64, 64, 64, classes=3), "gelu", scale=PIXELS),
    Task("breast cancer", "breast cancer", 60, _mlp(64, 64, classes=2), steps=2000),
    Task("digits, 6 layers", "digits", 200, _mlp(*[80] * 5, classes=10), "gelu", initial="he", seeds=3),
    Task("MNIST, MLP", "MNIST", 500, _mlp(64, 64, classes=10), scale=PIXELS, seeds=3),
    Task("digits", "digits", 100, _mlp(128, 128, classes=10), seeds=3),
    Task("digits, inputs x10", "digits", 100, _mlp(128, 128, classes=10), scale=10.0, seeds=3),
    Task("digits, ConvNet", "digits", 200, _DIGITS_CONVOLUTIONS, "gelu", seeds=3),
)

CHECKS = (
    Task("MNIST, ConvNet", "MNIST", 500, _MNIST_CONVOLUTIONS, steps=250, seeds=3),
    Task("rings, 2,000 steps", "rings", 150, _mlp(64, 64, 64, classes=3), "gelu", scale=PIXELS, steps=2000, seeds=3),
)
"""Tasks for a few forms only, which are not part of the comparison."""


def load(task: Task, seed: int, mnist: Path | None = None) -> Parts:
    """The data of a task; images are standardised by two numbers, tables column by column.

    Args:
        task: the task.
        seed: the seed of the training set.
        mnist: the folder with MNIST's files.
    """
    x, y, validation = _arrays(task.data, mnist)
    pool = len(y) - validation
    chosen = np.random.default_rng([_SPLIT_SEED, seed]).choice(pool // 2, task.train, replace=False)
    axes = None if x.ndim == 4 else 0
    mean, deviation = x[chosen].mean(axes), x[chosen].std(axes)
    scaled = task.scale * (x - mean) / np.maximum(deviation, 1e-6)
    parts: list[Any] = [chosen, slice(pool // 2, pool // 2 + validation), slice(pool // 2 + validation, None)]
    return Parts(*((scaled[part], y[part]) for part in parts))


@cache
def _arrays(name: str, mnist: Path | None) -> tuple[npt.NDArray[Any], npt.NDArray[Any], int]:
    """(inputs, labels, number for validation), in the order in which they are split into parts."""
    from sklearn import datasets

    if name == "digits":
        x, y = datasets.load_digits(return_X_y=True)
        x = x.reshape(-1, 1, 8, 8)
    elif name == "breast cancer":
        x, y = datasets.load_breast_cancer(return_X_y=True)
    elif name == "wine":
        x, y = datasets.load_wine(return_X_y=True)
    elif name == "rings":
        x, y = _rings(3000)
    else:
        pool = load_dataset(mnist).pool
        x, y = pool.x[:9000].transpose(0, 3, 1, 2).astype(np.float64), pool.y[:9000]
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(y))
    return x[order], y[order], len(y) // 4


def _rings(count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Points in 8 dimensions; the class is the ring that the first two lie on, but a tenth of the labels are random."""
    generator = np.random.default_rng(_SPLIT_SEED)
    y = generator.integers(0, 3, count)
    angle, radius = generator.uniform(0, 2 * np.pi, count), 1 + y + 0.25 * generator.normal(size=count)
    circle = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    x = np.concatenate([circle, generator.normal(size=(count, 6))], 1)
    wrong = generator.random(count) < 0.1
    return x, np.where(wrong, generator.integers(0, 3, count), y)


def initial(task: Task, shape: Sequence[int], seed: int) -> list[Tensor]:
    """Weights and biases in turn, of inputs of `shape` (channels, height, width) or (features,)."""
    generator = torch.Generator().manual_seed(seed)
    params, now = [], torch.zeros(1, 1, *shape)
    for layer in task.layers:
        if layer[0] in ("dense", "conv"):
            fan_in = now.shape[2] * (layer[2] ** 2 if layer[0] == "conv" else 1)
            if task.initial == "he":
                weight = torch.randn(fan_in, layer[1], generator=generator) * (2 / fan_in) ** 0.5
                bias = torch.zeros(1, layer[1])
            else:
                weight = (2 * torch.rand(fan_in, layer[1], generator=generator) - 1) / fan_in**0.5
                bias = (2 * torch.rand(1, layer[1], generator=generator) - 1) / fan_in**0.5
            now = _apply(layer, now, torch.relu, weight[None], bias[None])
            params += [weight, bias]
        else:
            now = _apply(layer, now, torch.relu)
    return params


def outputs(task: Task, params: Sequence[Tensor], x: Tensor) -> Tensor:
    """The logits (R, B, m) of R networks: `params` as from :func:`initial`, stacked (R, ...), and x (R, B, ...)."""
    activation = ACTIVATIONS[task.activation]
    rest = iter(params)
    for layer in task.layers:
        own = (next(rest), next(rest)) if layer[0] in ("dense", "conv") else ()
        x = _apply(layer, x, activation, *own)
    return x


def _apply(layer: Layer, x: Tensor, activation: Any, *params: Tensor) -> Tensor:
    kind, *settings = layer
    if kind == "activation":
        return activation(x)
    if kind == "flatten":
        return x.flatten(2)
    if kind == "dense":
        weight, bias = params
        return torch.baddbmm(bias, x, weight)
    count, batch, channels, height, width = x.shape
    images = x.reshape(count * batch, channels, height, width)
    if kind == "pool":
        pooled = F.max_pool2d(images, 2)
        return pooled.reshape(count, batch, *pooled.shape[1:])
    kept, kernel, stride = settings
    weight, bias = params
    windows = F.unfold(images, kernel, stride=stride)
    rows = windows.reshape(count, batch, *windows.shape[1:]).transpose(2, 3).reshape(count, -1, windows.shape[1])
    sides = [(side - kernel) // stride + 1 for side in (height, width)]
    return torch.baddbmm(bias, rows, weight).reshape(count, batch, *sides, kept).permute(0, 1, 4, 2, 3)
