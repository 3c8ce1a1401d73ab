"""``python -m gradreg_experiments.evidence.distillation``: a small student fits its Jacobian to a teacher's."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import gradreg_torch as gradreg
from gradreg_experiments.data.digits import CLASSES, load_dataset, standardise
from gradreg_experiments.evidence.stacked import Stack, batches, drawn_alike, fit, flops, penalties
from gradreg_experiments.evidence.study import (
    Cells,
    Condition,
    Method,
    Study,
    best,
    command,
    gain,
    points,
    render,
    table,
)
from gradreg_experiments.evidence.study import values as by_seed

__all__ = ["STUDY", "accuracies", "soft_losses"]

_STUDENT, _TEACHER = (64, 32, 32, CLASSES), (64, 128, 128, CLASSES)
_BATCH, _RATE, _NOISE = 50, 3e-3, 0.5
_DRAWN, _TEACHER_SEED, _TEACHER_STEPS = 20170926, 99, 1500
_SMALL = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
_LARGE = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0)

_REGS = {
    "SpectReg": gradreg.SpectReg(1.0),
    "Jacobian": gradreg.SobolevReg(1.0),
    "soft labels, Jacobian": gradreg.SobolevReg(1.0),
}


class _Data(NamedTuple):
    x: Tensor
    y: Tensor
    logits: Tensor
    """The teacher's logits, (N, m)."""
    T: Tensor
    """The teacher's Jacobian, (N, m, d)."""
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    teacher: float
    """The teacher's test accuracy in percent."""


@cache
def _data() -> _Data:
    """scikit-learn's digits, and the outputs of a teacher trained on the whole pool."""
    whole = load_dataset()
    assert whole.test is not None
    parts = standardise(whole.pool, whole.validation, whole.test)
    (x, y), validation, test = ((torch.tensor(part.x).flatten(1), torch.tensor(part.y)) for part in parts)
    teacher = Stack(_TEACHER, [_TEACHER_SEED], F.gelu)
    order = batches(len(x), _BATCH, _TEACHER_STEPS, _TEACHER_SEED)
    reg = gradreg.SpectReg(0.01)

    def total(step: int) -> Tensor:
        chosen = order[step]
        return gradreg.loss(teacher, x[chosen], y[chosen], reg, step=step)[0]

    fit(teacher, total, _TEACHER_STEPS, torch.tensor([1e-3]))
    inputs = x.clone().requires_grad_()
    logits = teacher(inputs)
    rows = [torch.autograd.grad(column.sum(), inputs, retain_graph=True)[0] for column in logits.unbind(1)]
    right = accuracies(teacher, *test).item()
    return _Data(x, y, logits.detach(), torch.stack(rows, 1), validation, test, right)


def accuracies(stack: Stack, x: Tensor, y: Tensor) -> Tensor:
    """Every network's accuracy in percent, (R,)."""
    with torch.no_grad():
        right = stack(x.repeat(stack.count, 1)).argmax(1).reshape(stack.count, -1) == y
    return 100 * right.double().mean(1)


def soft_losses(logits: Tensor, y: Tensor, teacher: Tensor, temperature: Tensor, share: Tensor) -> Tensor:
    """(1 - share) M(z, y) + share T^2 KL(softmax(teacher / T) || softmax(z / T)) of every sample, (N,).

    Args:
        logits: z, (N, m).
        y: labels, (N,).
        teacher: the teacher's logits, (N, m).
        temperature: T, (N,).
        share: the weight of the soft labels, (N,).
    """
    hard = F.cross_entropy(logits, y, reduction="none")
    own, other = ((z / temperature[:, None]).log_softmax(1) for z in (logits, teacher))
    soft = (other.exp() * (other - own)).sum(1)
    return (1 - share) * hard + share * temperature**2 * soft


def _train(condition: Condition, method: Method, seeds: Sequence[int], _folder: Path | None) -> dict[str, Any]:
    data, count = _data(), condition[1]
    settings = torch.tensor(method.settings)
    drawn = [np.random.default_rng([_DRAWN, seed]).choice(len(data.y), count, replace=False) for seed in seeds]
    order = [batches(count, _BATCH, STUDY.steps, seed) for seed in seeds]
    chosen = torch.stack([torch.tensor(own)[index] for own, index in zip(drawn, order, strict=True)])
    stack = Stack(_STUDENT, list(seeds) * len(settings), F.gelu)
    ids = drawn_alike(len(seeds), len(settings), chosen.shape[2])
    columns = settings.repeat_interleave(len(seeds), 0)
    soft = method.name.startswith("soft labels")
    reg = _REGS.get(method.name)

    def total(step: int) -> Tensor:
        rows = chosen[:, step].repeat(len(settings), 1).flatten()
        x, y, logits = data.x[rows], data.y[rows], stack(data.x[rows])
        if soft:
            temperature, share = (column.repeat_interleave(chosen.shape[2]) for column in columns.T[:2])
            losses = soft_losses(logits, y, data.logits[rows], temperature, share)
        else:
            losses = F.cross_entropy(logits, y, reduction="none")
        loss = losses.mean() * stack.count
        if reg is None:
            return loss
        target = data.T[rows] if isinstance(reg, gradreg.SobolevReg) else None
        return loss + penalties(stack, x, reg, columns[:, -1], step, ids, target)

    rates = columns[:, 0] if method.name == "labels alone" else torch.full((stack.count,), _RATE)
    fit(stack, total, STUDY.steps, rates)
    noisy = data.test[0] + _NOISE * torch.randn(data.test[0].shape, generator=torch.Generator().manual_seed(0))
    parts = (data.validation, data.test, (noisy, data.test[1]))
    by_setting = [accuracies(stack, *part).reshape(len(settings), -1).tolist() for part in parts]
    tried = [
        {"setting": list(setting), "validation": valid, "test": {"accuracy": test, "noise": noise}}
        for setting, valid, test, noise in zip(method.settings, *by_setting, strict=True)
    ]
    x, y = data.x[chosen[0, 0]], data.y[chosen[0, 0]]
    options: dict[str, Any] = {"reg": reg}
    if isinstance(reg, gradreg.SobolevReg):
        options["target"] = data.T[chosen[0, 0]]
    return {"tried": tried, "flops": flops(stack.one(0), x, y, **options), "teacher": round(data.teacher, 2)}


def _texts(study: Study, cells: Cells) -> dict[str, str]:
    first, *others = (method.name for method in study.methods)
    tables = {}
    for measure in ("accuracy", "noise"):
        rows = []
        for (task, count), own in cells.items():
            row = [f"{task}, {count}", f"{fmean(by_seed(study, own[first], measure)):.1f}"]
            for name in others:
                setting = f" ({render(best(study, own[name])['setting'])})" if measure == "accuracy" else ""
                row.append(points(gain(study, own[name], own[first], measure)) + setting)
            rows.append(row)
        tables[measure] = table(("images", f"{first}, %", *others), rows)
    over = [
        [
            f"{task}, {count}",
            points(gain(study, own["Jacobian"], own["soft labels"], "accuracy")),
            points(gain(study, own["soft labels, Jacobian"], own["soft labels"], "accuracy")),
            points(gain(study, own["Jacobian"], own["SpectReg"], "accuracy")),
        ]
        for (task, count), own in cells.items()
    ]  # fmt: skip
    head = ("images", "Jacobian minus soft labels", "both minus soft labels", "Jacobian minus SpectReg")
    costs = [
        [f"{task}, {count}", *(f"{own[name]['flops'] / own[first]['flops']:.2f}" for name in others)]
        for (task, count), own in cells.items()
    ]
    return {
        **tables,
        "over": table(head, over),
        "costs": table(("images", *others), costs),
        "teacher": ", ".join(sorted({f"{result['teacher']}" for own in cells.values() for result in own.values()})),
    }


STUDY = Study(
    name="distillation",
    version=1,
    conditions=tuple(("digits", count) for count in (50, 100, 200)),
    methods=(
        Method("labels alone", "rate", tuple((r,) for r in (3e-4, 5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2))),
        Method("SpectReg", "weight", tuple((weight,) for weight in _SMALL)),
        Method("soft labels", "temperature, share", tuple((t, s) for t in (1.0, 2.0, 4.0, 8.0) for s in (0.5, 1.0))),
        Method("Jacobian", "weight", tuple((weight,) for weight in _LARGE)),
        Method(
            "soft labels, Jacobian",
            "temperature, share, weight",
            tuple((t, 1.0, weight) for t in (2.0, 8.0) for weight in (0.03, 0.3, 1.0, 3.0)),
        ),
    ),
    seeds=8,
    steps=600,
    larger_is_better=True,
    train=_train,
    texts=_texts,
)


if __name__ == "__main__":
    command(STUDY)()
