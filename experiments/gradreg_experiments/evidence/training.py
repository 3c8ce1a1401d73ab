"""Trains all networks of one method on one task together: one per setting and seed.

Runs of one seed share the training set, the initial weights and the batches in all methods, so they are compared in
pairs. The parameters of R networks are stacked, (R, ...), the seeds of one setting side by side.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gradreg_experiments.evidence.experiment import CHECKPOINTS, Method
from gradreg_experiments.weights.tasks import ACTIVATIONS, Task
from gradreg_experiments.weights.training import Seeds

__all__ = ["activations", "penalties", "train"]

_RATE = 1e-3
_DRAWS = 3000
_NOISE = 0.5
"""The deviation of the noise added to test inputs, in units of the inputs' own."""
_FITTED = 0.99
"""The moving average of the batches' accuracy at which a training set counts as fitted."""


def activations(task: Task, params: Sequence[Tensor], x: Tensor, masks: Sequence[Tensor] = ()) -> list[Tensor]:
    """The inputs (R, B, d), each hidden layer's activations, and the logits (R, B, m) of R networks.

    Args:
        task: the task that defines the network: dense layers with an activation between them.
        params: weights and biases in turn, (R, ...).
        x: the inputs, (R, B, ...).
        masks: masks of the hidden layers, already scaled; empty without dropout.
    """
    layers = [x.flatten(2)]
    pairs = list(zip(params[::2], params[1::2], strict=True))
    for index, (weight, bias) in enumerate(pairs):
        h = torch.baddbmm(bias, layers[-1], weight)
        if index < len(pairs) - 1:
            h = ACTIVATIONS[task.activation](h)
            h = h * masks[index] if masks else h
        layers.append(h)
    return layers


def penalties(layers: Sequence[Tensor], losses: Tensor, method: str, draw: Callable[[Tensor], Tensor]) -> Tensor | None:
    """The penalty of every network, (R,), with a graph, or None for a method without one.

    SpectReg is mean_i ||J_i^T r_i||^2 with J the logits' Jacobian and r ~ N(0, I); layer-wise is the sum over the
    layers of the same with each layer's Jacobian; DataGrad is mean_i ||dM_i/dx_i||^2.

    Args:
        layers: the result of :func:`activations`; the inputs require a gradient.
        losses: M, (R, B).
        method: the method's name.
        draw: draws r for given activations.
    """
    if method == "layer-wise":
        pairs = list(pairwise(layers))
    elif method.startswith("SpectReg"):
        pairs = [(layers[0], layers[-1])]
    elif method == "DataGrad":
        (slope,) = torch.autograd.grad(losses.sum(), layers[0], create_graph=True)
        return slope.square().sum(2).mean(1)
    else:
        return None
    total = torch.zeros(len(losses))
    for before, after in pairs:
        (slope,) = torch.autograd.grad((after * draw(after)).sum(), before, create_graph=True)
        total = total + slope.square().sum(2).mean(1)
    return total


def train(seeds: Seeds, method: Method) -> dict[str, Any]:
    """Train a network per setting and seed.

    Returns:
        "outcomes": for each setting, at each checkpoint, accuracies in percent by seed; "flops": the multiplications
        and additions of one network's first step, in matrix products.
    """
    runs = _Runs(seeds, method)
    flops = 0.0
    for step in range(seeds.task.steps):
        if step == 0:
            with FlopCounterMode(display=False) as counter:
                runs.step(step)
            flops = counter.get_total_flops() / runs.count
        else:
            runs.step(step)
        if step + 1 in CHECKPOINTS:
            runs.evaluate(step + 1)
    return {"outcomes": runs.results, "flops": flops}


class _Runs:
    def __init__(self, seeds: Seeds, method: Method) -> None:
        self._seeds, self._method, self._own = seeds, method, seeds.task.seeds
        self.count = self._own * len(method.settings)
        self._params = [self._repeated(array).requires_grad_() for array in seeds.params]
        self._optimizer = torch.optim.Adam(self._params, lr=_RATE)
        self._x, self._y = (torch.stack([part.train[index] for part in seeds.parts]) for index in (0, 1))
        self._setting = torch.tensor(method.settings).repeat_interleave(self._own)
        self._generator = torch.Generator().manual_seed(_DRAWS)
        self._numpy = np.random.default_rng(_DRAWS)
        self._right = torch.zeros(self.count)
        self._fitted = torch.zeros(self.count, dtype=torch.bool)
        self.results: list[dict[str, Any]] = [{"setting": setting} for setting in method.settings]

    def _repeated(self, array: Tensor) -> Tensor:
        return array.repeat(len(self._method.settings), *[1] * (array.ndim - 1))

    def step(self, step: int) -> None:
        """One update of all networks."""
        chosen = self._seeds.batches[:, step].long()
        rows = torch.arange(self._own)[:, None]
        x, labels = self._repeated(self._x[rows, chosen]), self._repeated(self._y[rows, chosen])
        y = torch.nn.functional.one_hot(labels, self._params[-1].shape[-1]).float()
        x, y = self._mixed(x, y)
        layers = activations(self._seeds.task, self._params, x.requires_grad_(), self._masks(x.shape[1]))
        losses = -(y * layers[-1].log_softmax(2)).sum(2)
        total = losses.mean(1)
        penalty = penalties(layers, losses, self._method.name, self._draw)
        if penalty is not None:
            total = total + self._weights(layers[-1], labels) * penalty
        for param, gradient in zip(self._params, torch.autograd.grad(total.sum(), self._params), strict=True):
            param.grad = gradient
        if self._method.name == "weight decay":
            with torch.no_grad():
                for param in self._params:
                    param.mul_((1 - _RATE * self._setting)[:, None, None])
        self._optimizer.step()

    def _draw(self, like: Tensor) -> Tensor:
        """Directions that all settings of a seed share."""
        return self._repeated(torch.randn(self._own, *like.shape[1:], generator=self._generator))

    def _weights(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The penalty's weights, (R,)."""
        if self._method.name != "SpectReg once fitted":
            return self._setting
        right = (logits.detach().argmax(2) == labels).float().mean(1)
        self._right = 0.9 * self._right + 0.1 * right
        self._fitted |= self._right >= _FITTED
        return self._setting * self._fitted

    def _mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and soft labels, mixed or smoothed if the method does so."""
        shape = [self.count, *[1] * (x.ndim - 1)]
        if self._method.name == "label smoothing":
            share = self._setting[:, None, None]
            return x, (1 - share) * y + share / y.shape[2]
        if self._method.name == "mixup":
            share = torch.tensor(self._numpy.beta(self._setting.double(), self._setting.double()), dtype=x.dtype)
            order = torch.tensor(self._numpy.permutation(x.shape[1]))
            share_y, share_x = share[:, None, None], share.reshape(shape)
            return share_x * x + (1 - share_x) * x[:, order], share_y * y + (1 - share_y) * y[:, order]
        return x, y

    def _masks(self, size: int) -> list[Tensor]:
        if self._method.name != "dropout":
            return []
        rate = self._setting[:, None, None]
        draws = [
            torch.rand(self._own, size, weight.shape[2], generator=self._generator) for weight in self._params[:-2:2]
        ]
        return [(self._repeated(draw) >= rate) / (1 - rate) for draw in draws]

    @torch.no_grad()
    def evaluate(self, steps: int) -> None:
        """Add the accuracies after `step` steps to the results."""
        noise = torch.Generator().manual_seed(_DRAWS)
        for name in ("train", "validation", "test", "noise"):
            parts = [getattr(part, "test" if name == "noise" else name) for part in self._seeds.parts]
            x, y = (torch.stack([part[index] for part in parts]) for index in (0, 1))
            if name == "noise":
                x = x + _NOISE * self._seeds.task.scale * torch.randn(x.shape, generator=noise)
            logits = activations(self._seeds.task, self._params, self._repeated(x))[-1]
            right = 100 * (logits.argmax(2) == self._repeated(y)).double().mean(1)
            for index, result in enumerate(self.results):
                own = right[index * self._own : (index + 1) * self._own]
                result.setdefault(name, []).append([round(share, 3) for share in own.tolist()])
        for result in self.results:
            result.setdefault("steps", []).append(steps)
