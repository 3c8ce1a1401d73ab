"""``python -m gradreg_experiments.evidence.residual``: a residual network with augmentation on few colour images."""

from collections.abc import Sequence
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
from gradreg_experiments.evidence.stacked import batches
from gradreg_experiments.evidence.study import Cells, Condition, Method, Study, command, shown_gain, table, values

__all__ = ["STUDY", "ResNet", "augmented"]

_BATCH, _RATE, _SEED, _PADDING = 50, 0.05, 20170926, 4
_POOL, _VALIDATION, _TEST = 1900, 100, 1000
"""The number of images per class."""
_NOISE = 0.4
"""The noise's standard deviation, a tenth of the pixels' range."""
_NONE, _BATCH_NORM = "none", "CIFAR-10, BatchNorm"


@cache
def _data(path: Path | None) -> tuple[tuple[Tensor, Tensor], ...]:
    """(pixels between -2 and 2, labels) of the pool, the validation part and the test part."""
    arrays = split_images(path, "residual", _POOL, _VALIDATION, _TEST)
    return tuple((4 * torch.tensor(x).float() / 255 - 2, torch.tensor(y)) for x, y in arrays)


class ResNet(nn.Module):
    """A convolution of stride 2, three residual blocks of 16, 32 and 64 channels, a mean over the pixels, logits."""

    def __init__(self, batch_norm: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, 2, padding=1, bias=False)
        blocks = ((16, 16, 1), (16, 32, 2), (32, 64, 2))
        self.blocks = nn.Sequential(*(_Block(*numbers, batch_norm) for numbers in blocks))
        self.norm, self.last = _norm(64, batch_norm), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, 10) of pixels (B, 3, 32, 32)."""
        return self.last(self.norm(self.blocks(self.first(x))).relu().mean((2, 3)))


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.GroupNorm(8, channels)


class _Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int, batch_norm: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([_norm(before, batch_norm), _norm(after, batch_norm)])
        self.one = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.two = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.beside = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](x).relu()
        return self.beside(h) + self.two(self.norms[1](self.one(h)).relu())


def augmented(x: Tensor, generator: np.random.Generator) -> Tensor:
    """Each image flipped at random and shifted by up to four pixels, with grey borders."""
    padded = F.pad(x, (_PADDING,) * 4)
    flips, corners = generator.random(len(x)) < 0.5, generator.integers(0, 2 * _PADDING + 1, (len(x), 2))
    side = x.shape[2]
    return torch.stack([
        (image.flip(2) if flip else image)[:, top : top + side, left : left + side]
        for image, flip, (top, left) in zip(padded, flips, corners, strict=True)
    ])  # fmt: skip


def _reg(name: str, setting: float) -> Regularizer | None:
    if name == "DataGrad":
        return gradreg.DataGrad(setting)
    if name.startswith("SpectReg"):
        return gradreg.SpectReg(setting, every=4 if name.endswith("lazily") else 1)
    return None


def _loss(name: str, setting: float, model: Any, x: Tensor, y: Tensor, step: int, draws: np.random.Generator) -> Tensor:
    target: Tensor = F.one_hot(y, 10).float()
    if name == "label smoothing":
        target = (1 - setting) * target + setting / 10
    if name == "mixup":
        share, order = float(draws.beta(setting, setting)), torch.tensor(draws.permutation(len(x)))
        x, target = share * x + (1 - share) * x[order], share * target + (1 - share) * target[order]
    # BatchNorm couples samples; the condition with it measures just that.
    total: Tensor = gradreg.loss(model, x, target, _reg(name, setting), step=step, batch_norm="allow")[0]
    return total


def _train(condition: Condition, method: Method, seeds: Sequence[int], path: Path | None) -> dict[str, Any]:
    (images, labels), validation, test = _data(path)
    ((setting,),), (seed,) = method.settings, seeds
    draws = np.random.default_rng([_SEED, seed])
    chosen = torch.tensor(draws.choice(len(labels), condition[1], replace=False))
    order = chosen[batches(condition[1], _BATCH, STUDY.steps, seed)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ResNet(condition[0] == _BATCH_NORM)
    rate = setting if method.name == _NONE else _RATE
    decay = setting if method.name == "weight decay" else 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STUDY.steps)
    for step, rows in enumerate(order):
        optimizer.zero_grad()
        x = augmented(images[rows], draws)
        _loss(method.name, setting, model, x, labels[rows], step, np.random.default_rng([seed, step])).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    noise = _NOISE * torch.tensor(np.random.default_rng([_SEED, seed, 1]).standard_normal(test[0].shape)).float()
    measured = {
        "accuracy": _accuracy(model, *test),
        "noisy": _accuracy(model, test[0] + noise, test[1]),
        "fitted": _accuracy(model, images[chosen], labels[chosen]),
    }
    own = {name: [value] for name, value in measured.items()}
    tried = [{"setting": [setting], "validation": [_accuracy(model, *validation)], "test": own}]
    return {"tried": tried, "flops": _flops(model.train(), method, images[:_BATCH], labels[:_BATCH])}


@torch.no_grad()
def _accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    right = torch.cat([model(images).argmax(1) == own for images, own in zip(x.split(500), y.split(500), strict=True)])
    return round(100 * right.double().mean().item(), 3)


def _flops(model: nn.Module, method: Method, x: Tensor, y: Tensor) -> float:
    """The operations of a step, on average."""
    every = 4 if method.name.endswith("lazily") else 1
    totals = []
    for step in range(every):
        draws = np.random.default_rng(0)
        with FlopCounterMode(display=False) as counter:
            # The counter's hooks refuse a leaf as a module's input.
            loss = _loss(method.name, method.settings[0][0], lambda a: model(a.clone()), x, y, step, draws)
            torch.autograd.grad(loss, list(model.parameters()))
        totals.append(counter.get_total_flops())
    return fmean(totals)


def _texts(study: Study, cells: Cells) -> dict[str, str]:
    others = [method.name for method in study.methods[1:]]
    rows: dict[str, list[list[str]]] = {"accuracy": [], "noisy": [], "fitted": [], "costs": []}
    for (task, count), own in cells.items():
        name, none = f"{task}, {count}", own[_NONE]
        means = {measure: f"{fmean(values(study, none, measure)):.1f}" for measure in ("accuracy", "noisy", "fitted")}
        for measure in ("accuracy", "noisy"):
            texts = [shown_gain(study, own[other], none, measure) for other in others]
            rows[measure].append([name, means[measure], *texts])
        fitted = [f"{fmean(values(study, own[other], 'fitted')):.1f}" for other in others]
        rows["fitted"].append([name, means["fitted"], *fitted])
        rows["costs"].append([name, *(f"{own[other]['flops'] / none['flops']:.2f}" for other in others)])
    heads = ("images", f"{_NONE}, %", *others)
    parts = sum(study.count_parts(condition, method) for condition in study.conditions for method in study.methods)
    return {
        **{measure: table(heads, rows[measure]) for measure in ("accuracy", "noisy", "fitted")},
        "costs": table(("images", *others), rows["costs"]),
        "parts": str(parts),
    }


def _settings(*numbers: float) -> tuple[tuple[float, ...], ...]:
    return tuple((number,) for number in numbers)


STUDY = Study(
    name="residual",
    version=2,
    conditions=(*(("CIFAR-10, GroupNorm", count) for count in (1000, 4000, 16000)), (_BATCH_NORM, 1000)),
    methods=(
        Method(_NONE, "rate", _settings(0.02, 0.05, 0.1)),
        Method("SpectReg", "weight", _settings(1e-3, 3e-3, 1e-2)),
        Method("DataGrad", "weight", _settings(0.1, 0.3, 1.0)),
        Method("SpectReg, lazily", "weight, each fourth step", _settings(1e-3, 3e-3, 1e-2)),
        Method("weight decay", "of all weights, times the rate", _settings(5e-4, 2e-3, 5e-3)),
        Method("label smoothing", "share of the uniform label", _settings(0.05, 0.1, 0.2)),
        Method("mixup", "a of Beta(a, a)", _settings(0.1, 0.3, 1.0)),
    ),
    seeds=3,
    steps=1600,
    larger_is_better=True,
    train=_train,
    texts=_texts,
    data="A zip file of CIFAR-10 as JPEG files.",
    one_by_one=True,
    searched=1,
    more_seeds={("CIFAR-10, GroupNorm", 1000): 5, (_BATCH_NORM, 1000): 5},
)


if __name__ == "__main__":
    command(STUDY)()
