"""Carries out a :class:`gradreg_core.training.Plan` in PyTorch, and evaluates what came out of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradreg_core.training import Plan, Trained
from gradreg_torch import api
from gradreg_torch.networks import apply

__all__ = ["train"]


def train(plan: Plan, *, threads: int | None = None) -> Trained:
    """Train with Adam, one update for each row of ``plan.batches``.

    No generator is used, and PyTorch's number of threads and gradient mode are as before when it returns.

    Args:
        plan: what to train.
        threads: of the CPU, for this run; None leaves PyTorch's setting.

    Raises:
        InputError: the plan's arrays do not fit each other, or training diverged.
    """
    with _threads(threads), torch.inference_mode(False), torch.enable_grad():
        dtype = _dtype(plan.dtype)
        params = _tensors(plan.params, dtype)
        weights = {path: params[path].requires_grad_() for path in plan.network.weights()}
        optimizer = torch.optim.Adam(weights.values(), betas=(0.9, 0.999), eps=1e-8, fused=True)
        batches = torch.as_tensor(np.asarray(plan.batches, np.int64))
        x = torch.as_tensor(plan.x).to(dtype)
        y = torch.as_tensor(np.asarray(plan.y, np.int64))
        losses = torch.zeros(len(batches), dtype=torch.float64)
        for step, batch in enumerate(batches):
            masks = {} if plan.masks is None else _tensors(plan.masks(step), dtype)
            total, _ = api.loss(
                lambda inputs, masks=masks: apply(plan.network, params, inputs, masks),
                x[batch],
                y[batch],
                plan.reg,
                step=step,
                params=weights,
            )
            gradients = torch.autograd.grad(total, tuple(weights.values()))
            for weight, gradient in zip(weights.values(), gradients, strict=True):
                weight.grad = gradient.contiguous()  # fused Adam pairs elements by their place in memory
            optimizer.param_groups[0]["lr"] = float(plan.learning_rate(step))
            optimizer.step()
            losses[step] = total.detach()
    return Trained({path: value.detach().numpy() for path, value in params.items()}, losses.numpy())


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _tensors(arrays: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """Copies, so that training does not write into the plan's arrays."""
    return {path: torch.tensor(np.asarray(value), dtype=dtype) for path, value in arrays.items()}


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
