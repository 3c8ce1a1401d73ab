"""The methods that the demo compares, each with one number to tune and the values to try."""

from collections.abc import Callable
from dataclasses import dataclass

from gradreg_core.presets import ConfidencePenalty, DataGrad, SpectReg, WeightDecay
from gradreg_core.spec import Regularizer

__all__ = ["METHODS", "Method"]


@dataclass(frozen=True)
class Method:
    """A way to regularize."""

    name: str
    grid: tuple[float, ...]
    """The values to choose from, ascending."""
    make: Callable[[float, int], Regularizer | None]
    """A function (value, seed of the draws) -> regularizer."""
    dropout: Callable[[float], float] = lambda value: 0.0
    """A function value -> dropout rate."""
    wording: str = "{:g}"
    """The format of the chosen value."""
    gradient: bool = False
    """Whether the method penalises gradients."""


METHODS = (
    Method("none", (0.0,), lambda value, seed: None, wording="-"),
    Method("weight decay", (1e-3, 3e-3, 1e-2, 3e-2), lambda value, seed: WeightDecay(value)),
    Method("confidence penalty", (0.1, 0.3, 1.0, 3.0), lambda value, seed: ConfidencePenalty(value)),
    Method(
        "dropout", (0.35, 0.5, 0.65, 0.8), lambda value, seed: None, dropout=lambda value: value, wording="rate {:g}"
    ),
    Method("SpectReg", (0.003, 0.01, 0.03, 0.1), lambda value, seed: SpectReg(value, seed=seed), gradient=True),
    Method("DataGrad", (1.0, 3.0, 10.0, 30.0), lambda value, seed: DataGrad(value), gradient=True),
    Method(
        "dropout + DataGrad",
        (1.0, 3.0, 10.0, 30.0),
        lambda value, seed: DataGrad(value),
        lambda value: 0.5,
        wording="{:g}, rate 0.5",
        gradient=True,
    ),
)
