"""Many small networks of one shape, trained at the same time through gradreg's own calls.

R networks are one function of R * B samples, each network's samples side by side. So a sample's Jacobian is that of its
network, and sample weights give every network its own weight of the penalty.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import gradreg_torch as gradreg
from gradreg_core.spec import Regularizer

__all__ = ["Stack", "batches", "drawn_alike", "fit", "flops", "penalties"]


class Stack:
    """R fully connected networks.

    Args:
        units: the sizes of the input, the hidden layers and the output.
        seeds: the seeds of the initial weights, one per network; uniform within 1 / sqrt(inputs), biases too.
        activation: the activation between the layers.
    """

    def __init__(self, units: Sequence[int], seeds: Sequence[int], activation: Callable[[Tensor], Tensor]) -> None:
        self.count, self._activation = len(seeds), activation
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.params: list[Tensor] = []
        for before, after in pairwise(units):
            for rows in (before, 1):
                own = [(2 * torch.rand(rows, after, generator=one) - 1) / before**0.5 for one in generators]
                self.params.append(torch.stack(own).requires_grad_())

    def __call__(self, x: Tensor) -> Tensor:
        """Outputs (R * B, m) of inputs (R * B, d)."""
        h = x.reshape(self.count, -1, x.shape[-1])
        for place, (weight, bias) in enumerate(zip(self.params[::2], self.params[1::2], strict=True)):
            h = torch.baddbmm(bias, self._activation(h) if place else h, weight)
        return h.flatten(0, 1)

    def one(self, index: int) -> "Stack":
        """A single network."""
        alone = object.__new__(Stack)
        alone.count, alone._activation = 1, self._activation
        alone.params = [param.detach()[index : index + 1].requires_grad_() for param in self.params]
        return alone


def penalties(
    stack: Stack, x: Tensor, reg: Regularizer, weights: Tensor, step: int, ids: Tensor, target: Tensor | None = None
) -> Tensor:
    """The sum over the networks of weight * penalty, computed by :func:`gradreg_torch.penalty`.

    Args:
        stack: the networks.
        x: the inputs, (R * B, d).
        reg: the regularizer, with weight 1 and without labels.
        weights: the networks' weights, (R,), not all zero.
        step: the step of the draws.
        ids: the sample ids of the draws, (R * B,).
        target: the target of ``SobolevReg``, (R * B, m, d).
    """
    own = weights.repeat_interleave(len(x) // stack.count)
    options: dict[str, Any] = {} if target is None else {"target": target}
    # gradreg divides by the sum of the samples' weights; the sum of the networks' own means is wanted.
    mean = gradreg.penalty(stack, x, None, reg, step=step, sample_weight=own, sample_ids=ids, **options)
    return mean * weights.sum()


def drawn_alike(seeds: int, settings: int, size: int) -> Tensor:
    """Sample ids (R * B,) for networks ordered by setting, then by seed: the settings of one seed share their draws."""
    return torch.arange(seeds * size).repeat(settings)


def batches(count: int, size: int, steps: int, seed: int) -> Tensor:
    """Indices (steps, B): epochs in random order, whole batches only; all samples if there are at most B."""
    generator = np.random.default_rng([seed, 1])
    size = min(size, count)
    epochs = -(-steps // (count // size))
    orders = [generator.permutation(count)[: count // size * size].reshape(-1, size) for _ in range(epochs)]
    return torch.tensor(np.concatenate(orders)[:steps])


def fit(stack: Stack, total: Callable[[int], Tensor], steps: int, rates: Tensor, decay: Tensor | None = None) -> None:
    """Train with Adam; the rate falls to zero along half a cosine.

    Args:
        stack: the networks, changed in place.
        total: the sum of the networks' objectives at a step, with a graph.
        steps: the number of steps.
        rates: each network's rate, (R,).
        decay: decoupled weight decay, times the rate, (R,).
    """
    optimizer = torch.optim.Adam(stack.params, lr=1.0)
    for step in range(steps):
        now = (0.5 * (1 + np.cos(np.pi * step / steps)) * rates)[:, None, None]
        for param, gradient in zip(stack.params, torch.autograd.grad(total(step), stack.params), strict=True):
            param.grad = gradient
        with torch.no_grad():
            before = [param.clone() for param in stack.params]
            optimizer.step()
            # Adam's step at rate 1, times each network's own.
            for param, old in zip(stack.params, before, strict=True):
                shrunk = old if decay is None else old * (1 - now * decay[:, None, None])
                param.copy_(shrunk + now * (param - old))


def flops(alone: Stack, x: Tensor, y: Tensor, **options: Any) -> int:
    """Multiplications and additions in the matrix products of one step of one network, counted.

    Args:
        alone: the network.
        x: the inputs, (B, d).
        y: the targets.
        options: further arguments of :func:`gradreg_torch.loss`.
    """
    with FlopCounterMode(display=False) as counter:
        total, _ = gradreg.loss(alone, x, y, **({"reg": None} | options))
        torch.autograd.grad(total, alone.params)
    return int(counter.get_total_flops())
