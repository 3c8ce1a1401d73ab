"""Accuracy under noise and under gradient attacks at test time. Sizes are in units of pixels: black is 0, white 1."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradreg_core.portable.networks import Network
from gradreg_experiments.data.mnist import Part
from gradreg_experiments.trainers import Trainer

__all__ = ["ATTACKS", "NOISES", "measure"]

NOISES = (0.1, 0.2, 0.3, 0.5)
"""Standard deviations of Gaussian noise."""
ATTACKS = (0.02, 0.05, 0.1)
"""Largest changes of a pixel by an attack."""
_POINTS = 1000
_STEPS = 10
_SEED = 5
_BATCH = 50


def measure(trainer: Trainer, network: Network, params: Mapping[str, Any], part: Part, seed: int) -> dict[str, Any]:
    """Accuracy in percent on the first 1,000 images, clean, under noise and under two attacks, in batches of 50.

    The attacks are one step along the gradient's sign (FGSM) and ten projected ones (PGD from the image itself, steps
    of a quarter of the size), on the network without dropout. Pixels stay in [0, 1].
    """
    x, y = part.x[:_POINTS], part.y[:_POINTS]
    low, high = (0 - part.mean) / part.deviation, (1 - part.mean) / part.deviation
    noise = np.random.default_rng([seed, _SEED]).standard_normal(x.shape).astype(np.float32)

    def clip(values: Any) -> Any:
        return np.clip(values, low, high).astype(np.float32)

    def accuracy(values: Any) -> float:
        return 100 * trainer.count_right(network, params, values, y, _BATCH) / len(y)

    def gradient_sign(values: Any) -> Any:
        parts = [slice(start, start + _BATCH) for start in range(0, len(y), _BATCH)]
        return np.concatenate(
            [np.sign(trainer.input_gradient(network, params, values[rows], y[rows])) for rows in parts]
        )

    first = gradient_sign(x)
    accuracies: dict[str, Any] = {"clean": accuracy(x), "noise": {}, "fgsm": {}, "pgd": {}}
    for size in NOISES:
        accuracies["noise"][f"{size:g}"] = accuracy(clip(x + noise * (size / part.deviation)))
    for size in ATTACKS:
        allowed = size / part.deviation
        accuracies["fgsm"][f"{size:g}"] = accuracy(clip(x + allowed * first))
        moved = x
        for step in range(_STEPS):
            sign = first if step == 0 else gradient_sign(moved)
            moved = clip(np.clip(moved + allowed / 4 * sign, x - allowed, x + allowed))
        accuracies["pgd"][f"{size:g}"] = accuracy(moved)
    return accuracies
