"""Trains a job in PyTorch, one step after the other."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gradreg_torch as gradreg
from gradreg_core.portable.networks import Network
from gradreg_experiments.paper.protocol import split
from gradreg_experiments.paper.run import Run
from gradreg_experiments.paper.schedule import Masks
from gradreg_torch.networks import apply

__all__ = ["input_gradient", "jacobian_norms", "logits", "train"]

Arrays = Mapping[str, Any]


def train(run: Run, tick: Callable[[int], None] = lambda steps: None) -> tuple[dict[str, Any], Any]:
    """Carry the run out with Adam; see :class:`gradreg_experiments.paper.run.Trainer`."""
    protocol, network = run.job.protocol, run.network
    dtype = getattr(torch, protocol.dtype)
    shared, apart = split(protocol, run.job.regularizer)
    weights = {path: torch.tensor(value, dtype=dtype).requires_grad_() for path, value in run.params.items()}
    images, labels = torch.tensor(run.x, dtype=dtype), torch.tensor(run.y)
    if run.soft:
        labels = labels.to(dtype)
    optimizer = torch.optim.Adam(weights.values(), lr=protocol.learning_rate, eps=1e-8, fused=True)
    losses = []
    for start in range(0, protocol.steps, run.chunk):
        given = run.schedule.steps(start, start + run.chunk)
        masks, other_masks = (
            {path: torch.tensor(each, dtype=dtype) for path, each in pair.items()}
            for pair in (given.masks, given.other_masks)
        )
        batches, partners = torch.tensor(given.batches), torch.tensor(given.partners)
        for index, step in enumerate(given.numbers.tolist()):
            x, y = images[batches[index]], labels[batches[index]]
            if protocol.mixup:
                share = float(given.shares[index])
                x = share * x + (1 - share) * images[partners[index]]
                y = share * y + (1 - share) * labels[partners[index]]

            model = _model(network, weights, masks, index)
            total, _ = gradreg.loss(model, x, y, shared, step=step, params=weights, loss_fn=run.loss_fn)
            if apart is not None:
                model = _model(network, weights, other_masks, index)
                total = total + gradreg.penalty(model, x, y, apart, step=step)
            total = run.scale * total
            gradients = torch.autograd.grad(total, tuple(weights.values()))
            for weight, gradient in zip(weights.values(), gradients, strict=True):
                weight.grad = gradient.contiguous()
            optimizer.param_groups[0]["lr"] = float(given.rates[index])
            optimizer.step()
            losses.append(total.detach())
        tick(len(given.numbers))
    return {path: value.detach().numpy() for path, value in weights.items()}, torch.stack(losses).double().numpy()


def _model(network: Network, weights: Arrays, masks: Arrays, index: int) -> Callable[[Tensor], Tensor]:
    rows = Masks({path: each[index] for path, each in masks.items()})
    return lambda x: apply(network, weights, x, rows.next(len(x)))


def logits(network: Network, params: Arrays, x: Any) -> Any:
    """The outputs without dropout, (N, m)."""
    with torch.inference_mode():
        return apply(network, _tensors(params), torch.as_tensor(x)).numpy()


def input_gradient(network: Network, params: Arrays, x: Any, y: Any) -> Any:
    """The gradient of each sample's cross-entropy with respect to its input, of the shape of x, without dropout."""
    inputs = torch.tensor(x).requires_grad_()
    outputs = apply(network, _tensors(params), inputs)
    total = torch.nn.functional.cross_entropy(outputs, torch.as_tensor(y), reduction="sum")
    return torch.autograd.grad(total, inputs)[0].numpy()


def jacobian_norms(network: Network, params: Arrays, x: Any) -> Any:
    """||dz/dx||_F of each sample without dropout, (N,)."""
    native = _tensors(params)
    return gradreg.measure(lambda inputs: apply(network, native, inputs), torch.as_tensor(x)).frobenius.numpy()


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {path: torch.as_tensor(np.asarray(value)) for path, value in arrays.items()}
