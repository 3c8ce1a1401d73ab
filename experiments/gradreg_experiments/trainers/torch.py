"""Trains in PyTorch, one step after the other."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import gradreg_torch as gradreg
from gradreg_core.portable.networks import Network
from gradreg_experiments.plan import Masks, Plan, Steps, Trained
from gradreg_experiments.trainers.trainer import Tick, Trainer, silent
from gradreg_torch.networks import apply

__all__ = ["TorchTrainer"]

Arrays = Mapping[str, Any]


class TorchTrainer(Trainer):
    """See :class:`gradreg_experiments.trainers.trainer.Trainer`. It keeps PyTorch's generators and gradient mode."""

    def train(self, plan: Plan, tick: Tick = silent) -> Trained:
        with torch.inference_mode(False), torch.enable_grad():
            run = _Run(plan)
            for steps in plan.chunks():
                run.train(steps)
                tick(len(steps.numbers))
        return Trained({path: value.detach().numpy() for path, value in run.params.items()}, np.array(run.losses))

    def logits(self, network: Network, params: Arrays, x: Any) -> Any:
        with torch.inference_mode():
            return apply(network, _tensors(params), torch.as_tensor(x)).numpy()

    def input_gradient(self, network: Network, params: Arrays, x: Any, y: Any) -> Any:
        inputs = torch.tensor(x).requires_grad_()
        outputs = apply(network, _tensors(params), inputs)
        total = torch.nn.functional.cross_entropy(outputs, torch.as_tensor(y), reduction="sum")
        return torch.autograd.grad(total, inputs)[0].numpy()

    def jacobian_norms(self, network: Network, params: Arrays, x: Any) -> Any:
        native = _tensors(params)
        return gradreg.measure(lambda inputs: apply(network, native, inputs), torch.as_tensor(x)).frobenius.numpy()


class _Run:
    """Weights, data and optimizer of one run; the plan's arrays do not change."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.dtype = plan, getattr(torch, plan.dtype)
        self.params = self._copied(plan.params)
        self.weights = {path: self.params[path].requires_grad_() for path in plan.network.weights()}
        self.x = torch.tensor(plan.x, dtype=self.dtype)
        self.y = torch.tensor(plan.y, dtype=self.dtype if plan.soft else torch.int64)
        self.optimizer = torch.optim.Adam(self.weights.values(), betas=(0.9, 0.999), eps=1e-8, fused=True)
        self.losses: list[float] = []

    def train(self, steps: Steps) -> None:
        batches, partners = torch.tensor(steps.batches), torch.tensor(steps.partners)
        masks, apart_masks = self._copied(steps.masks), self._copied(steps.apart_masks)
        for index, step in enumerate(steps.numbers.tolist()):
            x, y = self.x[batches[index]], self.y[batches[index]]
            if self.plan.mixing is not None:
                share = float(steps.shares[index])
                x = share * x + (1 - share) * self.x[partners[index]]
                y = share * y + (1 - share) * self.y[partners[index]]
            plan, model = self.plan, self._model(masks, index)
            total, _ = gradreg.loss(model, x, y, plan.reg, step=step, params=self.weights, loss_fn=plan.loss_fn)
            if plan.apart is not None:
                total = total + gradreg.penalty(self._model(apart_masks, index), x, y, plan.apart, step=step)
            self._update(plan.scale * total, float(steps.rates[index]))

    def _update(self, total: Tensor, rate: float) -> None:
        gradients = torch.autograd.grad(total, tuple(self.weights.values()))
        for weight, gradient in zip(self.weights.values(), gradients, strict=True):
            weight.grad = gradient.contiguous()  # fused Adam pairs elements by their position in memory
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
        self.losses.append(float(total.detach()))

    def _model(self, masks: Arrays, index: int) -> Callable[[Tensor], Tensor]:
        rows = Masks({path: values[index] for path, values in masks.items()})
        return lambda x: apply(self.plan.network, self.params, x, rows.next(len(x)))

    def _copied(self, arrays: Arrays) -> dict[str, Tensor]:
        return {path: torch.tensor(np.asarray(value), dtype=self.dtype) for path, value in arrays.items()}


def _tensors(arrays: Arrays) -> dict[str, Tensor]:
    return {path: torch.as_tensor(np.asarray(value)) for path, value in arrays.items()}
