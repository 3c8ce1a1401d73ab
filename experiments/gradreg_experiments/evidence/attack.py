"""Projected gradient descent with restarts, which changes pixels by at most `size` and keeps them between 0 and 1."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["fast_sign", "robust"]


def _slope(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and the sign of each sample's loss' gradient."""
    inputs = x.detach().requires_grad_()
    logits = model(inputs)
    (slope,) = torch.autograd.grad(F.cross_entropy(logits, y, reduction="sum"), inputs)
    return logits.detach(), slope.sign()


def fast_sign(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, size: float) -> Tensor:
    """One step of the given size along the sign of the gradient (FGSM)."""
    return (x + size * _slope(model, x, y)[1]).clamp(0, 1)


def robust(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, size: float, steps: int, restarts: int) -> Tensor:
    """Whether each sample stays correct for all iterates of the attack, (N,) of bool.

    The first start is the image; the others are uniform in the cube of half side `size` around it. A step is a quarter
    of the size at first and a fortieth at the end. Samples already misclassified are not attacked further.

    Args:
        model: the model in evaluation mode.
        x: pixels between 0 and 1.
        y: labels.
        size: the largest change of a pixel.
        steps: the number of steps per start.
        restarts: the number of starts.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        right = model(x).argmax(1) == y
    for start in range(restarts):
        rest = right.nonzero()[:, 0]
        noise = 2 * torch.rand(x.shape, generator=generator)[rest] - 1
        moved = (x[rest] + size * noise * (start > 0)).clamp(0, 1)
        for step in range(steps + 1):
            logits, sign = _slope(model, moved, y[rest])
            stands = logits.argmax(1) == y[rest]
            right[rest[~stands]] = False
            rest, moved, sign = rest[stands], moved[stands], sign[stands]
            if not len(rest):
                break
            own = size * (0.25 - 0.225 * step / steps)
            moved = (moved + own * sign).clamp(x[rest] - size, x[rest] + size).clamp(0, 1)
    return right
