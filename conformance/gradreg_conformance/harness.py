"""What a backend brings so that the kit can drive it: arrays in, a portable network, values and gradients out.

A backend's description names its harness (``harness="acme_gradreg.harness:AcmeHarness"``), so nothing but the name of
the backend is needed to test it. Everything that the checks do goes through these few methods and the four calls.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any, Protocol

import numpy as np

from gradreg_core.errors import PluginError
from gradreg_core.plugins.dispatch import find_backend, load_backend
from gradreg_core.portable.networks import Layer, Network

__all__ = ["Arrays", "Function", "Harness", "load_harness"]

Array = Any
Arrays = Mapping[str, Array]
Function = Callable[[Arrays], Array]
"""A scalar function of named arrays, written in the framework's own arrays."""


class Harness(Protocol):
    """How the kit drives one backend. The factory in the description is called without arguments.

    These are optional:

    - ``session(self) -> context``: what to hold while a check runs, such as a setting that float64 needs;
    - ``model(self, network, arrays)``: the model of a call, where it is not any callable, in place of
      ``lambda x: self.apply(network, arrays, x)``;
    - ``compiled(self, function, mode) -> (function, count) | None``: a function made ready in `mode` for many calls,
      and what tells how often it has been compiled; None in eager modes;
    - ``no_gradient(self) -> context``: the framework's mode in which nothing is differentiated;
    - ``dtypes_of_mode``, mode -> dtypes: for modes that do not compute in all of `dtypes`, those in which they do;
    - ``note``, a string: what a reader of the report should know;
    - ``named_model(self, network, arrays) -> (model, names)``, needed by a backend that declares `named_activations`: a
      model of the framework's own that computes `apply`, and the name of each layer's output, for `at=`.
    """

    calls: Any
    """`loss`, `penalty`, `measure`, `check`; with an attribute `backend` if they are the engine's over primitives."""

    modes: Sequence[str]
    """Ways to run, such as ("eager", "jit"): all checks use the first, the checks of modes the others too."""

    layers: frozenset[type[Layer]]
    """The portable layers that `apply` knows, at least Dense, Flatten, every Activation; for others it must raise."""

    dtypes: Sequence[str]
    """Of "float64", "float32", "float16", "bfloat16", those that the backend computes in, the most exact one first: all
    checks compute in it, those of dtypes in the others too."""

    devices: Sequence[str]
    """The devices at hand, such as ("cpu", "cuda"); the first is the default."""

    tolerance: float
    """A multiplier of all tolerances, 1 unless the framework computes less exactly than IEEE 754; reports print it."""

    expected_failures: Mapping[str, str]
    """Check by exact name -> why it fails. An expected failure that passes is a failure."""

    versions: Mapping[str, str]
    """Name -> version of what computes: the framework, its compiler."""

    def array(self, values: np.ndarray, dtype: str, device: str) -> Array:
        """`values` as an array of the framework, of `dtype` ("int32" and "int64" for labels too)."""
        ...

    def numpy(self, array: Array) -> np.ndarray:
        """An array of the framework, without history, as NumPy array; bfloat16 as float32."""
        ...

    def apply(self, network: Network, arrays: Arrays, x: Array) -> Array:
        """The outputs of a portable network for x of shape (B, *network.input_shape); dropout is the identity.

        `arrays` has the weights and statistics by path ("2.weight"; those of a layer in a residual block "1.0.weight"),
        and may have more. What each layer computes is said in :mod:`gradreg_core.portable.networks`.

        Raises:
            Exception: a layer that is not among `layers`.
        """
        ...

    def value(self, function: Function, arrays: Arrays, mode: str) -> Array:
        """function(arrays), run in `mode`; `arrays` must not be changed."""
        ...

    def value_and_gradients(self, function: Function, arrays: Arrays, mode: str) -> tuple[Array, dict[str, Array]]:
        """function(arrays), and the gradient with respect to every array by name, of its shape.

        Zeros where the function does not depend on an array, as the penalty of a linear model does not depend on x.
        """
        ...


def load_harness(name: str) -> Harness:
    """The harness of the backend `name`, or the one at ``"module:callable"``, which needs no plugin.

    Raises:
        BackendNotFoundError, BackendImportError, PluginError: as :func:`gradreg_core.load_backend`.
        PluginError: the backend's description names no harness, or it cannot be made.
    """
    if ":" in name:
        return _make(name, "")
    record = find_backend(name)
    load_backend(name)
    assert record.description is not None
    target = record.description.harness
    if not target:
        raise PluginError(
            f"conformance: the backend {name!r} names no harness, without which the kit cannot drive it; write one "
            f"(gradreg_conformance.harness.Harness) and name it by harness='module:callable' in its description."
        )
    return _make(target, f" of the backend {name!r}")


def _make(target: str, owner: str) -> Harness:
    module, _, attribute = target.partition(":")
    try:
        harness: Harness = attrgetter(attribute)(import_module(module))()
    except Exception as error:
        raise PluginError(
            f"conformance: the harness {target!r}{owner} cannot be made: {type(error).__name__}: {error}"
        ) from error
    return harness
