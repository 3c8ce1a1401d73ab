"""Many small networks of one shape, trained at the same time through gradreg's own calls.

R networks are one function of R * B samples, those of a network side by side, so a sample's Jacobian is that of its own
network, and a penalty with weights by sample gives every network its own weight.
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
        units: of the input, the hidden layers and the output.
        seeds: of the first weights, one for every network; uniform within 1 / sqrt(inputs), biases too.
        activation: between the layers.
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
        """A network alone."""
        alone = object.__new__(Stack)
        alone.count, alone._activation = 1, self._activation
        alone.params = [param.detach()[index : index + 1].requires_grad_() for param in self.params]
        return alone


def penalties(
    stack: Stack, x: Tensor, reg: Regularizer, weights: Tensor, step: int, ids: Tensor, target: Tensor | None = None
) -> Tensor:
    """The sum over the networks of weight * penalty, by :func:`gradreg_torch.penalty`.

    Args:
        stack: the networks.
        x: (R * B, d).
        reg: with weight 1; without labels.
        weights: (R,), not all zero.
        step: of the draws.
        ids: (R * B,), of the draws.
        target: of ``SobolevReg``, (R * B, m, d).
    """
    own = weights.repeat_interleave(len(x) // stack.count)
    options: dict[str, Any] = {} if target is None else {"target": target}
    # gradreg divides by the sum of the samples' weights; the networks' own means are wanted, added up.
    mean = gradreg.penalty(stack, x, None, reg, step=step, sample_weight=own, sample_ids=ids, **options)
    return mean * weights.sum()


def drawn_alike(seeds: int, settings: int, size: int) -> Tensor:
    """Sample ids (R * B,) of networks ordered by setting and then by seed: a seed's settings share their draws."""
    return torch.arange(seeds * size).repeat(settings)


def batches(count: int, size: int, steps: int, seed: int) -> Tensor:
    """Indices (steps, B): epochs in random order, whole batches only; all samples if there are no more than B."""
    generator = np.random.default_rng([seed, 1])
    size = min(size, count)
    epochs = -(-steps // (count // size))
    orders = [generator.permutation(count)[: count // size * size].reshape(-1, size) for _ in range(epochs)]
    return torch.tensor(np.concatenate(orders)[:steps])


def fit(stack: Stack, total: Callable[[int], Tensor], steps: int, rates: Tensor, decay: Tensor | None = None) -> None:
    """Train by Adam, the rate falling to nothing along half a cosine.

    Args:
        stack: the networks, changed in place.
        total: the sum over the networks of what each minimises at a step, with a graph.
        steps: how many.
        rates: each network's, (R,).
        decay: decoupled, times the rate, (R,).
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
        x: (B, d).
        y: targets.
        options: further arguments of :func:`gradreg_torch.loss`.
    """
    with FlopCounterMode(display=False) as counter:
        total, _ = gradreg.loss(alone, x, y, **({"reg": None} | options))
        torch.autograd.grad(total, alone.params)
    return int(counter.get_total_flops())
