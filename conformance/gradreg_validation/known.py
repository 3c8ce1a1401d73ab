"""Arrays that both models have computed alike, from which the next ones are explained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from gradreg_validation.forms import FORMS

__all__ = ["LARGEST", "Candidates", "Facts", "Known", "derived"]

Candidates = Iterator[tuple[str, np.ndarray]]
"""(words, array)."""
INNER = ("relu", "tanh", "sigmoid", "silu (swish)", "GELU in its exact (erf) form", "GELU in its tanh approximation")
_NEAREST = 8
"""The number of earlier arrays that are tried, besides the model's input."""
LARGEST = 200_000
"""Elements of the largest array that is searched."""


@dataclass(frozen=True)
class Known:
    """An array that both models have computed alike, and what the report calls it."""

    label: str
    array: np.ndarray


@dataclass
class Facts:
    """The arrays from which others are explained."""

    inputs: list[Known] = field(default_factory=list)
    """The model's input."""
    layers: list[Known] = field(default_factory=list)
    """Results of layers, and what went into them, the nearest last."""
    masks: Sequence[Known] = ()
    """Inputs that hold zeros and ones alone."""
    constants: Sequence[Known] = ()
    """Parameters that no layer owns."""

    def near(self) -> list[Known]:
        """The floating-point arrays that are tried, the nearest first."""
        layers = [one for one in self.layers if _usable(one)][-_NEAREST:]
        return [*reversed(layers), *(one for one in self.inputs if _usable(one))]

    def all(self) -> list[Known]:
        """All floating-point arrays, the nearest first."""
        return [*(one for one in reversed(self.layers) if _usable(one)), *filter(_usable, self.inputs)]


def _usable(one: Known) -> bool:
    return one.array.dtype.kind == "f" and 0 < one.array.size <= LARGEST


def derived(near: Sequence[Known], forms: Sequence[str] = INNER) -> list[Known]:
    """The arrays and functions of them."""
    return [
        Known(one.label if form == "the identity" else f"{form} of {one.label}", FORMS[form](one.array))
        for one in near
        for form in dict.fromkeys(("the identity", *forms))
    ]
