"""Networks, data and regularizers that several tests share, and the tolerances they are compared with."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import gradreg_numpy
from gradreg_core.norms import hinge, target
from gradreg_core.portable import networks as nets
from gradreg_core.presets import (
    R1,
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    GradientPenalty,
    HoffmanReg,
    InputFisher,
    JacReg,
    OneHot,
    RandomOneHot,
    SpectralNormReg,
    SpectReg,
    WeightDecay,
)
from gradreg_core.projections import exact, ones, orthonormal, rademacher, sphere, top_k
from gradreg_core.spec import JacobianPenalty, Regularizer

FLOAT64 = 1e-12
"""Relative error in norm: a few thousand roundings of 1.1e-16, with room for cancellation. Measured: below 1e-14."""

_act = nets.Activation

NETWORKS = {
    "dense": nets.Network((5,), (nets.Dense(7), _act("tanh"), nets.Dense(6), _act("softplus"), nets.Dense(4))),
    "relu": nets.Network((5,), (nets.Dense(9), _act("relu"), nets.Dense(8), _act("leaky_relu"), nets.Dense(4))),
    "conv": nets.Network(
        (6, 6, 1),
        (
            nets.Conv2D(2, 3, "same"),
            _act("relu"),
            nets.MaxPool(2),
            nets.Conv2D(2, 3, "valid"),
            _act("gelu"),
            nets.Flatten(),
            nets.Dense(3),
        ),
    ),
    "pooled": nets.Network(
        (4, 4, 1), (nets.Conv2D(2, 3, "same"), _act("sigmoid"), nets.AvgPool(2), nets.Flatten(), nets.Dense(3))
    ),
    "normed": nets.Network(
        (6,),
        (
            nets.Dense(8),
            _act("gelu_tanh"),
            nets.LayerNorm(),
            nets.Residual((nets.Dense(8), _act("tanh"), nets.BatchNorm())),
            nets.Dense(3),
        ),
    ),
    "attention": nets.Network(
        (3, 4),
        (nets.LayerNorm(), nets.Residual((nets.Attention(2),)), _act("gelu"), nets.Flatten(), nets.Dense(3)),
    ),
    "batch_norm": nets.Network((4,), (nets.Dense(6), _act("tanh"), nets.BatchNorm(training=True), nets.Dense(3))),
    "group_norm": nets.Network(
        (2, 2, 3), (nets.Dense(4), _act("tanh"), nets.GroupNorm(2), _act("tanh"), nets.Flatten(), nets.Dense(3))
    ),
}

CRITIC = nets.Network((5,), (nets.Dense(7), _act("tanh"), nets.Dense(1)))

PRESETS: list[Regularizer] = [
    DataGrad(2.0),
    SpectReg(0.3, seed=7),
    SpectReg(0.3, spherical=True, seed=1),
    SpectReg(0.3, projections=3, draw="per_batch"),
    FrobReg(0.2),
    JacReg(0.5),
    HoffmanReg(0.1),
    HoffmanReg(0.1, projections=None),
    GradientPenalty(1.5, target=0.3),
    GradientPenalty(1.5, target=0.1, one_sided=True),
    R1(3.0),
    OneHot(0.7),
    RandomOneHot(0.7, seed=3),
    InputFisher(0.9, seed=2),
    SpectralNormReg(0.4, iterations=4),
    ConfidencePenalty(0.3),
    WeightDecay(0.01),
    R1(3.0, projection=ones(), norm="linf"),
    DataGrad(2.0, norm="l1", squared=False),
]


def schedule(step: Any) -> Any:
    """A weight that is exact in binary, whatever type the step has."""
    return 0.125 * (step + 1)


GENERAL: list[Regularizer] = [
    JacobianPenalty(1.0, projection=rademacher(2), norm="l1", squared=False),
    JacobianPenalty(1.0, projection=rademacher(1), norm="linf"),
    JacobianPenalty(1.0, projection=orthonormal(2, unbiased=True), output="log_probabilities"),
    JacobianPenalty(1.0, projection=sphere(2, unbiased=True), output="probabilities", norm="l2", squared=False),
    JacobianPenalty(1.0, projection=top_k(2), phi=hinge(0.2), squared=False),
    JacobianPenalty(1.0, projection=exact(), output="loss", norm="l1", phi=target(0.5), squared=False),
    JacobianPenalty(1.0, projection=exact(), norm="linf", squared=True, scale=0.25),
    DataGrad(2.0, every=2) + SpectReg(schedule, seed=5) + ConfidencePenalty(0.1),
    SpectReg(0.5, fraction=0.5, seed=4),
    DataGrad(0.5, fraction=0.6) + FrobReg(0.1),
]


def named(regularizers: list[Regularizer]) -> list[Any]:
    """Regularizers as pytest parameters with readable ids."""
    import pytest

    return [pytest.param(reg, id=re.sub(r"<function (\w+) at \w+>", r"\1", repr(reg))) for reg in regularizers]


def network(name: str) -> nets.Network:
    """One of NETWORKS, or the critic."""
    return CRITIC if name == "critic" else NETWORKS[name]


def problem(name: str, batch: int = 4, seed: int = 0) -> tuple[gradreg_numpy.Model, np.ndarray, np.ndarray]:
    """A reference model with random weights and statistics, inputs and labels."""
    chosen = network(name)
    rng = np.random.default_rng([seed, *map(ord, name)])
    params = {
        path: value + 0.3 * rng.normal(size=value.shape)
        if path in chosen.weights()
        else np.exp(0.2 * rng.normal(size=value.shape))
        for path, value in gradreg_numpy.initialize(chosen, seed).items()
    }
    classes = int(np.prod(chosen.output_shape))
    x = rng.normal(size=(batch, *chosen.input_shape))
    return gradreg_numpy.Model(chosen, params), x, rng.integers(0, max(classes, 2), batch)


def relative(ours: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """||ours - wanted|| / ||wanted|| over all arrays together; single tensors may be zero and mean nothing."""
    assert set(ours) == set(wanted)
    assert all(ours[path].shape == wanted[path].shape for path in wanted)
    difference = sum(float(((ours[path] - wanted[path]) ** 2).sum()) for path in wanted) ** 0.5
    return difference / max(sum(float((wanted[path] ** 2).sum()) for path in wanted) ** 0.5, 1e-300)


def perturbation(
    function: Callable[[gradreg_numpy.Model, np.ndarray], Mapping[str, np.ndarray]],
    model: gradreg_numpy.Model,
    x: np.ndarray,
) -> float:
    """The median relative change of `function` when its inputs move by half a unit in the last place of float32."""
    base = function(model, x)
    changes = []
    for seed in range(3):
        rng = np.random.default_rng(seed)

        def moved(value: np.ndarray, rng: np.random.Generator = rng) -> np.ndarray:
            return value * (1 + 2.0**-24 * rng.choice([-1.0, 1.0], size=value.shape))

        shaken = gradreg_numpy.Model(model.network, {path: moved(value) for path, value in model.params.items()})
        changes.append(relative(function(shaken, moved(x)), base))
    return float(np.median(changes))
