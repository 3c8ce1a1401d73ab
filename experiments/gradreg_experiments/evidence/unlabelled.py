"""``python -m gradreg_experiments.evidence.unlabelled``: SpectReg on images without labels, against pseudo-labels."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import gradreg_torch as gradreg
from gradreg_core.errors import InputError
from gradreg_experiments.data.digits import CLASSES, load_dataset, standardise
from gradreg_experiments.evidence.distillation import accuracies
from gradreg_experiments.evidence.stacked import Stack, batches, drawn_alike, fit, flops, penalties
from gradreg_experiments.evidence.study import Cells, Condition, Method, Study, command, gain, points, shown_gain, table
from gradreg_experiments.evidence.study import values as by_seed
from gradreg_experiments.weights.tasks import PIXELS

__all__ = ["STUDY", "pseudo_losses"]

_UNITS = (784, 64, 64, CLASSES)
_BATCH, _MORE, _RATE, _RAMP = 50, 100, 1e-3, 200
_POOL, _VALIDATION, _TEST, _SEED = 10_000, 2_000, 5_000, 20170926
_REG = gradreg.SpectReg(1.0)
_ALONE, _LABELLED, _ALL, _PSEUDO = "labels alone", "SpectReg, labelled", "SpectReg, all", "pseudo-labels"


@cache
def _data(folder: Path | None) -> tuple[tuple[Tensor, Tensor], ...]:
    """(images, labels) of the pool, the validation part and the test part; pixels have the deviation ``PIXELS``.

    Raises:
        InputError: no folder was given.
    """
    if folder is None:
        raise InputError("unlabelled: expected --data-dir with MNIST's four files, got none. Add --data-dir FOLDER.")
    whole = load_dataset(folder)
    assert whole.test is not None
    cut = ((whole.pool, _POOL), (whole.validation, _VALIDATION), (whole.test, _TEST))
    parts = standardise(*(type(part)(part.x[:count], part.y[:count]) for part, count in cut))
    return tuple((PIXELS * torch.tensor(part.x).flatten(1), torch.tensor(part.y)) for part in parts)


def pseudo_losses(logits: Tensor, threshold: Tensor) -> Tensor:
    """The cross-entropy with a sample's most probable class if its probability reaches the threshold, else 0, (N,)."""
    probability, label = logits.detach().softmax(1).max(1)
    return F.cross_entropy(logits, label, reduction="none") * (probability >= threshold)


def _train(condition: Condition, method: Method, seeds: Sequence[int], folder: Path | None) -> dict[str, Any]:
    (images, labels), validation, test = _data(folder)
    settings = torch.tensor(method.settings)
    drawn = [np.random.default_rng([_SEED, seed]).permutation(len(labels)) for seed in seeds]
    cuts = [np.split(own, [condition[1]]) for own in drawn]
    chosen, others = (
        torch.stack([
            torch.tensor(cut[place])[batches(len(cut[place]), size, STUDY.steps, seed)]
            for seed, cut in zip(seeds, cuts, strict=True)
        ])
        for place, size in ((0, _BATCH), (1, _MORE))
    )  # fmt: skip
    stack = Stack(_UNITS, list(seeds) * len(settings), torch.relu)
    columns = settings.repeat_interleave(len(seeds), 0)
    size = _BATCH + (_MORE if method.name == _ALL else 0)
    ids = drawn_alike(len(seeds), len(settings), size)

    def total(step: int) -> Tensor:
        rows, more = (index[:, step].repeat(len(settings), 1) for index in (chosen, others))
        x, y = images[rows.flatten()], labels[rows.flatten()]
        loss = F.cross_entropy(stack(x), y) * stack.count
        if method.name == _ALL:
            x = images[torch.cat([rows, more], 1).flatten()]
        if method.name == _PSEUDO:
            weight, threshold = (column.repeat_interleave(_MORE) for column in columns.T)
            losses = pseudo_losses(stack(images[more.flatten()]), threshold)
            return loss + min(1.0, step / _RAMP) * (weight * losses).mean() * stack.count
        return loss if method.name == _ALONE else loss + penalties(stack, x, _REG, columns[:, 0], step, ids)

    fit(stack, total, STUDY.steps, columns[:, 0] if method.name == _ALONE else torch.full((stack.count,), _RATE))
    by_setting = [accuracies(stack, *part).reshape(len(settings), -1).tolist() for part in (validation, test)]
    tried = [
        {"setting": list(setting), "validation": valid, "test": {"accuracy": own}}
        for setting, valid, own in zip(method.settings, *by_setting, strict=True)
    ]
    x, y, more = images[chosen[0, 0]], labels[chosen[0, 0]], images[others[0, 0]]
    return {"tried": tried, "flops": _flops(method.name, stack.one(0), x, y, more)}


def _flops(name: str, alone: Stack, x: Tensor, y: Tensor, more: Tensor) -> int:
    """The operations of a step as a user writes it: one forward pass over all images of the step."""
    if name in (_ALONE, _LABELLED):
        return flops(alone, x, y, reg=None if name == _ALONE else _REG)
    x, y = torch.cat([x, more]), torch.cat([y, torch.zeros(len(more), dtype=y.dtype)])
    return flops(alone, x, y, reg=_REG if name == _ALL else None)


def _texts(study: Study, cells: Cells) -> dict[str, str]:
    others = [method.name for method in study.methods[1:]]
    gains, over, costs = [], [], []
    for (task, count), own in cells.items():
        name = f"{task}, {count}"
        texts = [shown_gain(study, own[other], own[_ALONE], "accuracy") for other in others]
        gains.append([name, f"{fmean(by_seed(study, own[_ALONE], 'accuracy')):.1f}", *texts])
        rivals = (_LABELLED, _PSEUDO)
        over.append([name, *(points(gain(study, own[_ALL], own[rival], "accuracy")) for rival in rivals)])
        costs.append([name, *(f"{own[other]['flops'] / own[_ALONE]['flops']:.2f}" for other in others)])
    tables = {
        "gains": (("labels", f"{_ALONE}, %", *others), gains),
        "over": (("labels", f"{_ALL}, minus {_LABELLED}", f"minus {_PSEUDO}"), over),
        "costs": (("labels", *others), costs),
    }
    return {name: table(*parts) for name, parts in tables.items()}


_WEIGHTS = tuple((weight,) for weight in (1e-3, 3e-3, 1e-2, 3e-2, 1e-1))
STUDY = Study(
    name="unlabelled",
    version=1,
    conditions=(("MNIST", 100), ("MNIST", 500)),
    methods=(
        Method(_ALONE, "rate", tuple((rate,) for rate in (3e-4, 5e-4, 1e-3, 2e-3, 4e-3))),
        Method(_ALL, "weight", _WEIGHTS),
        Method(_PSEUDO, "weight, threshold", ((0.3, 0.95), (1.0, 0.95), (3.0, 0.95), (1.0, 0.8), (1.0, 0.99))),
        Method(_LABELLED, "weight", _WEIGHTS),
    ),
    seeds=4,
    steps=400,
    larger_is_better=True,
    train=_train,
    texts=_texts,
    data="A folder with MNIST's four files.",
)


if __name__ == "__main__":
    command(STUDY)()
