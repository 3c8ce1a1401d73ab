"""``python -m gradreg_experiments.evidence.derivatives``: Sobolev training of two systems' flow maps."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import gradreg_torch as gradreg
from gradreg_experiments.evidence.dynamics import SYSTEMS, flow
from gradreg_experiments.evidence.stacked import Stack, batches, drawn_alike, fit, flops, penalties
from gradreg_experiments.evidence.study import (
    Cells,
    Condition,
    Method,
    Study,
    best,
    command,
    factor,
    render,
    table,
    times,
    values,
)

__all__ = ["STUDY", "Samples", "jacobian_error", "samples"]

_HIDDEN, _BATCH = (64, 64), 50
_POOL, _VALIDATION, _TEST, _JACOBIANS = 600, 400, 1000, 200
_SEED = 20170926
_RATES = (5e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 4e-2)
_REG = gradreg.SobolevReg(1.0)


class Samples(NamedTuple):
    """States x (N, d), the flow map y (N, d) and its Jacobians T (N, d, d), in units of the pool's deviations."""

    x: Tensor
    y: Tensor
    T: Tensor


@cache
def samples(system: str) -> tuple[Samples, Samples, Samples]:
    """The pool of training samples, validation samples and test samples of a system."""
    states = SYSTEMS[system].states(_POOL + _VALIDATION + _TEST, np.random.default_rng(_SEED))
    after, jacobians = flow(SYSTEMS[system], states)
    scales = [(array[:_POOL].mean(0), array[:_POOL].std(0)) for array in (states, after)]
    (x_mean, x_scale), (y_mean, y_scale) = scales
    x, y = (states - x_mean) / x_scale, (after - y_mean) / y_scale
    T = jacobians * x_scale / y_scale[:, None]
    parts = np.split(np.arange(len(x)), [_POOL, _POOL + _VALIDATION])
    pool, validation, test = (
        Samples(*(torch.tensor(array[part], dtype=torch.float32) for array in (x, y, T))) for part in parts
    )
    return pool, validation, test


def jacobian_error(stack: Stack, own: Samples) -> Tensor:
    """100 sqrt(sum_i ||J_i - T_i||_F^2 / sum_i ||T_i||_F^2) of every network, (R,)."""
    x = own.x.repeat(stack.count, 1).requires_grad_()
    outputs = stack(x)
    rows = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in outputs.unbind(1)]
    J = torch.stack(rows, 1).reshape(stack.count, *own.T.shape)
    return 100 * ((J - own.T).square().sum((1, 2, 3)) / own.T.square().sum()).sqrt()


def _train(condition: Condition, method: Method, seeds: Sequence[int], _data: Path | None) -> dict[str, Any]:
    system, count = condition
    pool, validation, test = samples(system)
    settings = torch.tensor(method.settings)
    drawn = [np.random.default_rng([_SEED, seed]).choice(_POOL, count, replace=False) for seed in seeds]
    order = [batches(count, _BATCH, STUDY.steps, seed) for seed in seeds]
    chosen = torch.stack([torch.tensor(own)[index] for own, index in zip(drawn, order, strict=True)])
    d = pool.x.shape[1]
    stack = Stack((d, *_HIDDEN, d), list(seeds) * len(settings), torch.tanh)
    rates, second = settings.repeat_interleave(len(seeds), 0)[:, [0, -1]].T
    ids = drawn_alike(len(seeds), len(settings), chosen.shape[2])

    def total(step: int) -> Tensor:
        x, y, T = (array[chosen[:, step].repeat(len(settings), 1).flatten()] for array in pool)
        loss = _losses(stack(x), y).mean() * stack.count
        return loss + penalties(stack, x, _REG, second, step, ids, T) if method.name == "SobolevReg" else loss

    fit(stack, total, STUDY.steps, rates, second if method.name == "weight decay" else None)
    with torch.no_grad():
        errors = [_error(stack, part) for part in (validation, test)]
    jacobian_errors = jacobian_error(stack, Samples(*(array[:_JACOBIANS] for array in test)))
    by_setting = [array.reshape(len(settings), len(seeds)).tolist() for array in (*errors, jacobian_errors)]
    tried = [
        {"setting": list(setting), "validation": valid, "test": {"error": error, "jacobian": jacobian}}
        for setting, valid, error, jacobian in zip(method.settings, *by_setting, strict=True)
    ]
    x, y, T = (array[chosen[0, 0]] for array in pool)
    options: dict[str, Any] = {"reg": _REG, "target": T} if method.name == "SobolevReg" else {}
    return {"tried": tried, "flops": flops(stack.one(0), x, y, loss_fn=_losses, **options)}


def _losses(outputs: Tensor, y: Tensor) -> Tensor:
    """Each sample's mean squared error, (B,)."""
    return (outputs - y).square().mean(1)


def _error(stack: Stack, own: Samples) -> Tensor:
    """100 times the root mean square error of every network, (R,)."""
    outputs = stack(own.x.repeat(stack.count, 1)).reshape(stack.count, *own.y.shape)
    return 100 * (outputs - own.y).square().mean((1, 2)).sqrt()


def _texts(study: Study, cells: Cells) -> dict[str, str]:
    rows, jacobians = [], []
    for (system, count), own in cells.items():
        none, decay, sobolev = (own[method.name] for method in study.methods)
        rows.append([
            f"{system}, {count}",
            *(f"{fmean(values(study, result, 'error')):.2f} ({render(best(study, result)['setting'])})"
              for result in (none, decay, sobolev)),
            times(factor(study, decay, none, "error")),
            times(factor(study, sobolev, none, "error")),
            f"{sobolev['flops'] / none['flops']:.2f}",
        ])  # fmt: skip
        jacobians.append(
            [
                f"{system}, {count}",
                *(f"{fmean(values(study, result, 'jacobian')):.1f}" for result in (none, decay, sobolev)),
                times(factor(study, sobolev, none, "jacobian")),
            ]
        )
    head = ("system, points", "values alone, %", "weight decay, %", "SobolevReg, %")
    return {
        "errors": table((*head, "weight decay over values", "SobolevReg over values", "plain steps"), rows),
        "jacobians": table((*head, "SobolevReg over values"), jacobians),
        "labels": _labels(study, cells),
    }


def _labels(study: Study, cells: Cells) -> str:
    """SobolevReg at N points beside values alone at N (d + 1) points, which are as many numbers."""
    rows = []
    for system, count in cells:
        more = (system, count * (samples(system)[0].x.shape[1] + 1))
        if more in cells:
            first, second = cells[system, count]["SobolevReg"], cells[more][study.methods[0].name]
            texts = [f"{fmean(values(study, result, 'error')):.2f}" for result in (first, second)]
            rows.append([system, str(count), texts[0], str(more[1]), texts[1]])
    head = ("system", "points with Jacobians", "SobolevReg, %", "points without", "values alone, %")
    return table(head, rows)


STUDY = Study(
    name="derivatives",
    version=1,
    conditions=tuple(
        (system, count)
        for counts in ((25, 20), (100, 100), (400, 500))
        for system, count in zip(SYSTEMS, counts, strict=True)
    ),
    methods=(
        Method("values alone", "rate", tuple((rate,) for rate in _RATES)),
        Method(
            "weight decay",
            "rate, decoupled decay times the rate",
            tuple((rate, decay) for rate in (3e-3, 1e-2) for decay in (0.001, 0.01, 0.1, 1.0)),
        ),
        Method(
            "SobolevReg",
            "rate, weight",
            tuple((rate, weight) for rate in (3e-3, 1e-2) for weight in (0.01, 0.1, 1.0, 10.0)),
        ),
    ),
    seeds=6,
    steps=1000,
    larger_is_better=False,
    train=_train,
    texts=_texts,
)


if __name__ == "__main__":
    command(STUDY)()
