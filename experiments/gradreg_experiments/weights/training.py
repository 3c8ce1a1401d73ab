"""Trains many networks of one task at the same time: settings of one form of the penalty, times seeds.

All forms are rules for the weight c that multiplies the penalty's gradient in a step:

    gradient of the loss + c * gradient of n,    n = mean_i ||J_i^T r_i||^2,  r_i ~ N(0, I)   (SpectReg)
                                                 n = mean_i ||dM_i/dx_i||^2                  (DataGrad)

Runs of one seed share the training set, the initial weights, the batches and the draws, so they are compared in pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gradreg_experiments.plan import permuted_batches
from gradreg_experiments.weights.rules import Rule, Setting, State
from gradreg_experiments.weights.tasks import Parts, Task, initial, load, outputs

__all__ = ["Seeds", "norms", "train"]

_BATCH = 50
_RATE = 1e-3
_BATCHES, _DRAWS = 1, 2000
"""Numbers that keep the generators of one seed independent."""


@dataclass
class Seeds:
    """The common inputs of a task's runs, by seed, and the norms of an unregularized run per seed."""

    task: Task
    parts: list[Parts]
    params: list[Tensor]
    """Initial weights and biases, (seeds, ...)."""
    batches: Tensor
    """The indices of the batches, (seeds, steps, B)."""
    plain: Tensor | None = None
    """n in an unregularized run, a moving average, (steps, seeds)."""

    @classmethod
    def make(cls, task: Task, mnist: Path | None = None) -> "Seeds":
        """Draw everything that depends on the seed alone."""
        seeds = range(task.seeds)
        parts = [load(task, seed, mnist) for seed in seeds]
        params = [initial(task, parts[0].train[0].shape[1:], seed) for seed in seeds]
        batches = [
            permuted_batches(task.train, _BATCH, task.steps, np.random.default_rng([seed, _BATCHES])) for seed in seeds
        ]
        return cls(
            task,
            parts,
            [torch.stack(arrays) for arrays in zip(*params, strict=True)],
            torch.tensor(np.stack(batches), dtype=torch.int64),
        )


def norms(task: Task, params: Sequence[Tensor], x: Tensor, y: Tensor, r: Tensor, penalty: str) -> tuple[Tensor, Tensor]:
    """(the mean loss, n), of every network, (R,), with a graph for the gradients of both.

    Args:
        task: the task that defines the network.
        params: the stacked parameters, (R, ...).
        x: the inputs, (R, B, ...).
        y: the labels, (R, B).
        r: the directions, (R, B, m); not used by "datagrad".
        penalty: "spectreg" or "datagrad".
    """
    x = x.detach().requires_grad_()
    logits = outputs(task, params, x)
    losses = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").reshape(y.shape)
    scalar = (logits * r).sum() if penalty == "spectreg" else losses.sum()
    (slope,) = torch.autograd.grad(scalar, x, create_graph=True)
    return losses.mean(1), slope.square().flatten(2).sum(2).mean(1)


def train(seeds: Seeds, rule: Rule, settings: Sequence[Setting]) -> list[dict[str, Any]]:
    """Train a network per setting and seed; return each setting's outcomes, as lists over the seeds.

    The runs without a penalty store their norms in ``seeds.plain``, for the rules that refer to them.
    """
    runs = _Runs(seeds, settings)
    optimizer = torch.optim.Adam(runs.params, lr=_RATE)
    trace: list[Tensor] = []
    for step in range(seeds.task.steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE if step < 0.75 * seeds.task.steps else 0.1 * _RATE
        x, y, r = runs.batch(step)
        loss, n = norms(seeds.task, runs.params, x, y, r, rule.penalty)
        state = runs.update(step, loss, n, x)
        for param, gradient in zip(runs.params, _gradients(rule, state, runs.params, loss, n), strict=True):
            param.grad = gradient
        optimizer.step()
        trace.append(0.9 * trace[-1] + 0.1 * state.n if trace else state.n)
    if rule.name == "none":
        seeds.plain = torch.stack(trace)
    return [runs.result(index, trace[-1]) for index in range(len(settings))]


class _Runs:
    """One network per setting and seed, the seeds of one setting side by side."""

    def __init__(self, seeds: Seeds, settings: Sequence[Setting]) -> None:
        self._seeds, self._settings, self._count = seeds, settings, seeds.task.seeds
        self.params = [self._each_setting(array).requires_grad_() for array in seeds.params]
        self._x, self._y = (torch.stack([part.train[index] for part in seeds.parts]) for index in (0, 1))
        self._generators = [torch.Generator().manual_seed(_DRAWS + seed) for seed in range(self._count)]
        columns = list(torch.tensor(settings).repeat_interleave(self._count, 0).T)
        ones = torch.ones(len(columns[0]))
        self._state = State(columns, ones, ones, ones, ones, ones)

    def _each_setting(self, array: Tensor) -> Tensor:
        return array.repeat(len(self._settings), *[1] * (array.ndim - 1))

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, labels and directions."""
        chosen = self._seeds.batches[:, step]
        rows = torch.arange(self._count)[:, None]
        size, classes = chosen.shape[1], self.params[-1].shape[-1]
        r = torch.stack([torch.randn(size, classes, generator=generator) for generator in self._generators])
        return (
            self._each_setting(self._x[rows, chosen]),
            self._each_setting(self._y[rows, chosen]),
            self._each_setting(r),
        )

    def update(self, step: int, loss: Tensor, n: Tensor, x: Tensor) -> State:
        """The inputs of the rules at this step."""
        state = self._state
        state.loss, state.n, state.inputs = loss.detach(), n.detach(), x.flatten(2).var(1).mean(1)
        if step == 0:
            state.start = state.n
        if self._seeds.plain is not None:
            state.plain = self._each_setting(self._seeds.plain[step])
        return state

    @torch.no_grad()
    def result(self, index: int, last: Tensor) -> dict[str, Any]:
        """The outcomes of a setting: accuracies in percent, n at the end and at the start, by seed."""
        own = slice(index * self._count, (index + 1) * self._count)
        result: dict[str, Any] = {"setting": self._settings[index]}
        for name in ("validation", "test"):
            x, y = (torch.stack([getattr(part, name)[index] for part in self._seeds.parts]) for index in (0, 1))
            right = outputs(self._seeds.task, [param[own] for param in self.params], x).argmax(2) == y
            result[name] = [round(100 * share, 4) for share in right.double().mean(1).tolist()]
        for name, norm in (("norm", last[own]), ("start", self._state.start[own])):
            # JSON has no NaN; a diverged run has null.
            result[name] = [float(f"{value:.4g}") if math.isfinite(value) else None for value in norm.tolist()]
        return result


def _gradients(rule: Rule, state: State, params: list[Tensor], loss: Tensor, n: Tensor) -> Sequence[Tensor]:
    """The gradients of the loss plus the weighted penalty."""
    if not rule.gradients:
        weight = rule.weight(state)
        return torch.autograd.grad((loss + weight * n).sum(), params)
    ours = torch.autograd.grad(loss.sum(), params, retain_graph=True)
    # The last bias does not change the Jacobian.
    theirs = torch.autograd.grad(n.sum(), params, allow_unused=True, materialize_grads=True)
    lengths = (sum(part.square().flatten(1).sum(1) for part in parts) for parts in (ours, theirs))
    of_loss, of_penalty = (torch.as_tensor(length).sqrt() for length in lengths)
    state.ratio = of_loss / (of_penalty + 1e-12)
    weight = rule.weight(state)
    return [own + weight.reshape(-1, *[1] * (own.ndim - 1)) * other for own, other in zip(ours, theirs, strict=True)]
