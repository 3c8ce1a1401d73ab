"""``python -m gradreg_experiments.evidence.kinks``: input-gradient norms of ReLU and GELU networks under an attack."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import gradreg_torch as gradreg
from gradreg_core.spec import Regularizer
from gradreg_experiments.data.images import split_images
from gradreg_experiments.evidence.attack import fast_sign, robust
from gradreg_experiments.evidence.stacked import batches
from gradreg_experiments.evidence.study import (
    Cells,
    Condition,
    Method,
    Study,
    command,
    points,
    render,
    shown_gain,
    table,
    values,
)
from gradreg_experiments.evidence.summary import Gain
from gradreg_experiments.weights.summary import interval

__all__ = ["STUDY", "Network"]

_BATCH, _RATE, _SEED = 50, 1e-3, 20170926
_POOL, _VALIDATION, _TEST, _ATTACKED = 200, 20, 100, 200
"""The number of images per class, and of attacked test images."""
_SIZE, _STEPS, _RESTARTS = 2 / 255, 50, 2
_NONE, _L2, _L1, _FAST = "none", "L2 norm", "L1 norm", "FGSM training"
_ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"ReLU": F.relu, "GELU": F.gelu}


@cache
def _data(path: Path | None) -> tuple[tuple[Tensor, Tensor], ...]:
    """(pixels between 0 and 1, labels) of the pool, the validation part and the test part."""
    arrays = split_images(path, "kinks", _POOL, _VALIDATION, _TEST)
    return tuple((torch.tensor(x).float() / 255, torch.tensor(y)) for x, y in arrays)


class Network:
    """Three convolutions of stride 2 and a dense layer, for 32x32 pixels between 0 and 1.

    Args:
        activation: the activation between the layers.
        seed: the seed of the initial weights, which are PyTorch's.
    """

    def __init__(self, activation: Callable[[Tensor], Tensor], seed: int) -> None:
        self._activation = activation
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Conv2d(3, 16, 5), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 64, 3), nn.Linear(64 * 16, 10)]
        self.params = [param for layer in layers for param in layer.parameters()]

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (B, 10) of pixels (B, 3, 32, 32)."""
        # In units of approximately the pixels' deviation.
        h, *rest = 4 * x - 2, *self.params
        for weight, bias in zip(rest[:-2:2], rest[1:-2:2], strict=True):
            h = self._activation(F.conv2d(h, weight, bias, stride=2, padding=weight.shape[2] // 2))
        return F.linear(h.flatten(1), *rest[-2:])


def _reg(name: str, weight: float) -> Regularizer | None:
    if name not in (_L1, _L2):
        return None
    return gradreg.DataGrad(weight, norm="l1" if name == _L1 else "l2", squared=False)


def _loss(name: str, setting: float, model: Network, x: Tensor, y: Tensor, step: int) -> Tensor:
    if name == _FAST:
        x = fast_sign(model, x, y, setting / 255)
    total: Tensor = gradreg.loss(model, x, y, _reg(name, setting), step=step)[0]
    return total


def _train(condition: Condition, method: Method, seeds: Sequence[int], path: Path | None) -> dict[str, Any]:
    (images, labels), validation, test = _data(path)
    activation = _ACTIVATIONS[condition[0].split(", ")[1]]
    tried = []
    for (setting,) in method.settings:
        own: dict[str, list[float]] = {"validation": [], "clean": [], "robust": []}
        for seed in seeds:
            chosen = np.random.default_rng([_SEED, seed]).choice(len(labels), condition[1], replace=False)
            order = torch.tensor(chosen)[batches(condition[1], _BATCH, STUDY.steps, seed)]
            model = Network(activation, seed)
            optimizer = torch.optim.Adam(model.params, lr=_RATE)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STUDY.steps)
            for step, rows in enumerate(order):
                optimizer.zero_grad()
                _loss(method.name, setting, model, images[rows], labels[rows], step).backward()
                optimizer.step()
                schedule.step()
            for param in model.params:
                param.requires_grad_(False)
            attacked = (test[0][:_ATTACKED], test[1][:_ATTACKED])
            own["validation"].append(_percent(robust(model, *validation, _SIZE, 10, 1)))
            own["clean"].append(_percent(model(test[0]).argmax(1) == test[1]))
            own["robust"].append(_percent(robust(model, *attacked, _SIZE, _STEPS, _RESTARTS)))
        tried.append({"setting": [setting], "validation": own.pop("validation"), "test": own})
    return {"tried": tried, "flops": _flops(method, activation, images[:_BATCH], labels[:_BATCH])}


def _percent(right: Tensor) -> float:
    return round(100 * right.double().mean().item(), 3)


def _flops(method: Method, activation: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> int:
    model = Network(activation, 0)
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(_loss(method.name, method.settings[0][0], model, x, y, 0), model.params)
    return int(counter.get_total_flops())


def _texts(study: Study, cells: Cells) -> dict[str, str]:
    others = [method.name for method in study.methods[1:]]
    clean: list[list[str]] = []
    under: list[list[str]] = []
    fronts, more = [], []
    for (task, _), own in cells.items():
        for measure, rows in (("clean", clean), ("robust", under)):
            texts = [shown_gain(study, own[name], own[_NONE], measure) if name in own else "-" for name in others]
            rows.append([task, f"{fmean(values(study, own[_NONE], measure)):.1f}", *texts])
        for name, result in own.items():
            fronts += [
                [task, name, render(run["setting"]), *(f"{fmean(run['test'][m]):.1f}" for m in ("clean", "robust")),
                 f"{result['flops'] / own[_NONE]['flops']:.2f}"]
                for run in result["tried"]
            ]  # fmt: skip
    if len(cells) == len(study.conditions):
        smooth, kinked = (cells[condition] for condition in reversed(study.conditions))
        both = [name for name in others if name in smooth and name in kinked]
        more = [[name, *(_more(study, smooth, kinked, name, m) for m in ("robust", "clean"))] for name in both]
    head = ("network", f"{_NONE}, %", *others)
    tables = {
        "robust": (head, under),
        "clean": (head, clean),
        "more": (("penalty", "under the attack", "clean"), more),
        "fronts": (("network", "method", "setting", "clean, %", "under the attack, %", "plain steps"), fronts),
    }
    return {name: table(*parts) for name, parts in tables.items()}


def _more(study: Study, smooth: Mapping[str, Any], kinked: Mapping[str, Any], name: str, measure: str) -> str:
    """The gain in the smooth network minus that in the kinked one, in pairs of equal seed."""
    gains = [
        [a - b for a, b in zip(*(values(study, own[key], measure) for key in (name, _NONE)), strict=True)]
        for own in (smooth, kinked)
    ]
    differences = [a - b for a, b in zip(*gains, strict=True)]
    return points(Gain(fmean(differences), interval(differences)))


STUDY = Study(
    name="kinks",
    version=1,
    conditions=(("CIFAR-10, ReLU", 1000), ("CIFAR-10, GELU", 1000)),
    methods=(
        Method(_NONE, "", ((0.0,),)),
        Method(_L1, "weight", ((0.008,), (0.02,))),
        Method(_L2, "weight", ((0.3,), (1.0,))),
        Method(_FAST, "size, in 255ths", ((2.0,), (4.0,))),
    ),
    seeds=3,
    steps=300,
    larger_is_better=True,
    train=_train,
    texts=_texts,
    data="A zip file of CIFAR-10 as JPEG files.",
    whole=False,
    one_by_one=True,
)


if __name__ == "__main__":
    command(STUDY)()
