"""The calls of a model's layers on one batch: inputs and results, in the order in which they ended."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gradreg_core.structures import flatten

__all__ = ["Recorder", "Step"]


@dataclass(frozen=True)
class Step:
    """One call of a layer."""

    name: str
    """The layer's name; of its second call ``name#1``, and so on."""
    inputs: dict[str, np.ndarray]
    """The arrays among its arguments: by position, by keyword, with paths below."""
    outputs: dict[str, np.ndarray]
    """The arrays that it returned; the first array under `name`, others under ``name[path]``."""
    layer: Any = None
    """The layer in its framework, if there is one."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keywords that are not arrays."""


class Recorder:
    """Collects steps.

    Args:
        host: an array of the framework as NumPy's; None for anything else, or without values now.
    """

    def __init__(self, host: Callable[[Any], np.ndarray | None]) -> None:
        self.host = host
        self.steps: list[Step] = []
        self._calls: Counter[str] = Counter()

    def arrays(self, structure: Any) -> dict[str, np.ndarray]:
        """The arrays in a structure by path."""
        leaves, _ = flatten(structure, lambda value: hasattr(value, "dtype") and hasattr(value, "shape"))
        hosted = {path: self.host(leaf) for path, leaf in leaves}
        return {path: array for path, array in hosted.items() if array is not None}

    def add(self, name: str, layer: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        """A call has ended."""
        number = self._calls[name]
        self._calls[name] += 1
        called = f"{name}#{number}" if number else name
        outputs = self.arrays(output)
        named = {called if i == 0 else f"{called}[{path}]": array for i, (path, array) in enumerate(outputs.items())}
        inputs = self.arrays({**{str(i): value for i, value in enumerate(args)}, **kwargs})
        options = {key: value for key, value in kwargs.items() if isinstance(value, bool | int | float | str)}
        self.steps.append(Step(called, inputs, named, layer, options))
