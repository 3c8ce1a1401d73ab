"""The description of a layer, and changes to it."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

__all__ = ["Layer", "Mistake"]


@dataclass(frozen=True)
class Layer:
    """A layer in words and numbers."""

    kind: str
    params: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    channels_last: bool = False
    activation: str | None = None
    """A form of :data:`gradreg_validation.forms.FORMS` after the layer."""

    def with_params(self, **params: np.ndarray) -> "Layer":
        """The layer with other parameters."""
        return replace(self, params={**self.params, **params})

    def with_options(self, **options: Any) -> "Layer":
        """The layer with other options."""
        return replace(self, options={**self.options, **options})

    def without(self, name: str) -> "Layer":
        """The layer without one parameter."""
        return replace(self, params={key: array for key, array in self.params.items() if key != name})


@dataclass(frozen=True)
class Mistake:
    """A change to a layer, in words."""

    own: str
    """The layer's own way, in words."""
    other: str
    """The way after the change, in words."""
    layer: Layer
    fitted: bool = False
    """Whether a number was fitted to the output."""
