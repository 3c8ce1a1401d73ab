"""How the conformance kit drives the NumPy reference."""

import operator
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from gradreg_conformance.cases import Squared, squared
from gradreg_conformance.check import NotApplicable
from gradreg_conformance.harness import Harness
from gradreg_core.portable import networks as nets
from gradreg_numpy import api
from gradreg_numpy.functions import Array
from gradreg_numpy.networks import Model
from gradreg_numpy.networks import apply as apply_network
from gradreg_numpy.oracle import COMPLEX_STEP

__all__ = ["NumpyHarness"]

Arrays = Mapping[str, Array]
Function = Callable[[Arrays], Any]


class NumpyHarness(Harness):
    """See :class:`gradreg_conformance.harness.Harness`, which documents the methods.

    The kit compares with the reference, so those checks compare it with itself here, and its complex-step gradient with
    another path to the same complex steps. The other checks test laws, errors, and that the calls
    behave as in every backend. There are no primitives.
    """

    layers = nets.LAYERS
    dtypes = ("float64",)
    any_callable = False
    note = "This backend is the reference itself: checks against the reference compare it with itself."

    def __init__(self) -> None:
        calls = {name: _adapted(getattr(api, name)) for name in ("loss", "penalty", "measure", "check")}
        self.calls = SimpleNamespace(name="numpy", **calls)
        self.versions = {"numpy": np.__version__}

    def array(self, values: np.ndarray, dtype: str, device: str) -> Array:
        return np.array(values, dtype)

    def numpy(self, array: Array) -> Array:
        return np.asarray(array)

    def apply(self, network: nets.Network, arrays: Arrays, x: Array) -> Array:
        return apply_network(network, arrays, x)

    def model(self, network: nets.Network, arrays: Arrays) -> Model:
        """The reference differentiates portable networks only."""
        return Model(network, {path: arrays[path] for path in network.weights() | network.statistics()})

    def named_model(self, network: nets.Network, arrays: Arrays) -> tuple[Model, list[str]]:
        """The model itself, whose layers are named by their index."""
        return self.model(network, arrays), [str(index) for index in range(len(network.layers))]

    def value(self, function: Function, arrays: Arrays, mode: str) -> Array:
        return np.asarray(function(arrays))

    def value_and_gradients(self, function: Function, arrays: Arrays, mode: str) -> tuple[Array, dict[str, Array]]:
        floats = {name: array for name, array in arrays.items() if array.dtype.kind == "f"}
        gradients = {name: np.zeros(array.shape) for name, array in floats.items()}
        for name, array in floats.items():
            for index in np.ndindex(array.shape):
                moved = array.astype(np.complex128)
                moved[index] += 1j * COMPLEX_STEP
                gradients[name][index] = np.imag(function({**arrays, name: moved})) / COMPLEX_STEP
        return np.asarray(function(arrays)), gradients


_UNUSED = ("params", "batch_norm", "chunk_size")
"""Arguments of the engine's calls that the reference does not need: for example, its models hold their weights."""


def _adapted(call: Callable[..., Any]) -> Callable[..., Any]:
    """The reference's call, with the arguments of the engine's calls."""

    def adapted(*args: Any, **options: Any) -> Any:
        given = {name: value for name, value in options.items() if name not in _UNUSED}
        if given.get("loss_fn") is squared:
            given["loss_fn"] = Squared()
        if given.pop("projections", None) is not None:
            raise NotApplicable("the reference measures exactly, and makes no estimates")
        for name in ("step", "seed"):
            value = given.get(name)
            if isinstance(value, np.ndarray) and value.dtype.kind in "iu":
                given[name] = operator.index(value)
        return call(*args, **given)

    return adapted
