"""A backend over PyTorch of the abstract methods alone; everything else is a default of the base class."""

from typing import Any

import gradreg_torch
from gradreg_core.backend import Backend
from gradreg_core.calls import Calls
from gradreg_torch.backend import TorchBackend

ABSTRACT: list[str] = sorted(Backend.__abstractmethods__)
"""The methods that every backend must bring."""


def subclass(*methods: str) -> type[Backend]:
    """A subclass of Backend that has these methods of PyTorch's."""
    members: dict[str, Any] = {name: vars(TorchBackend)[name] for name in methods}
    return type("Minimal", (Backend,), {"name": "minimal", **members})


MINIMAL = subclass(*ABSTRACT)()
CALLS = {"torch": gradreg_torch, "minimal": Calls(MINIMAL)}
"""PyTorch's own calls, and the same over the defaults. A tensor as the step is a traced step to the second."""
