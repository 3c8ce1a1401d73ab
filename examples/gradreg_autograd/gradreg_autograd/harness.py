"""How the conformance kit drives the autograd backend."""

import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import numpy as np
from autograd import value_and_grad

from gradreg_autograd.networks import RULES, apply
from gradreg_conformance.harness import Harness
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.portable.networks import Dropout, Network, Residual

__all__ = ["AutogradHarness"]

Array = Any
Arrays = Mapping[str, Array]
Function = Callable[[Arrays], Array]


class AutogradHarness(Harness):
    """See :class:`gradreg_conformance.harness.Harness`, which documents the methods."""

    modes = ("eager",)
    layers = frozenset(RULES) | {Dropout, Residual}
    dtypes = ("float64", "float32")
    devices = ("cpu",)

    def __init__(self) -> None:
        self.calls = load_backend("autograd")
        self.versions = {name: version(name) for name in ("autograd", "numpy", "scipy")}

    def array(self, values: np.ndarray, dtype: str, device: str) -> Array:
        return np.array(values, dtype)

    def numpy(self, array: Array) -> np.ndarray:
        return np.asarray(array)

    def apply(self, network: Network, arrays: Arrays, x: Array) -> Array:
        return apply(network, arrays, x)

    def value(self, function: Function, arrays: Arrays, mode: str) -> Array:
        return function(arrays)

    def value_and_gradients(self, function: Function, arrays: Arrays, mode: str) -> tuple[Array, dict[str, Array]]:
        with warnings.catch_warnings():  # the gradient of a constant penalty is correctly 0
            warnings.filterwarnings("ignore", "Output seems independent of input")
            return value_and_grad(function)(dict(arrays))
