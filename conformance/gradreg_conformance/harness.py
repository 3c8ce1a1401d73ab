"""The harness by which the kit drives a backend: arrays in, a portable network, values and gradients out.

A backend's description names its harness (``harness="acme_gradreg.harness:AcmeHarness"``), so the name of the backend
is all that is needed to test it. Everything that the checks do goes through these few methods and the four calls.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from gradreg_core.errors import PluginError
from gradreg_core.plugins.dispatch import find_backend, load_backend
from gradreg_core.portable.networks import Layer, Network

__all__ = ["OPTIONAL", "Arrays", "Function", "Harness", "OwnModel", "load_harness"]

Array = Any
Arrays = Mapping[str, Array]
Function = Callable[[Arrays], Array]
"""A scalar function of named arrays, written in the framework's own arrays."""


class OwnModel(NamedTuple):
    """A model of the framework's own; see :meth:`Harness.own_model`."""

    model: Any
    passes: Callable[[], int]
    """Reads how often the state of the model has moved."""


class Harness:
    """How the kit drives one backend: a base class. The factory in the description is called without arguments.

    A subclass sets `calls`, `layers`, `dtypes` and `versions`, and defines `array`, `numpy`, `apply`, `value` and
    `value_and_gradients`. Everything else has a default.
    """

    calls: Any
    """`loss`, `penalty`, `measure`, `check`; with an attribute `backend` if they are the engine's over primitives."""

    layers: frozenset[type[Layer]]
    """The portable layers that `apply` knows, at least Dense, Flatten, every Activation; for others it must raise."""

    dtypes: Sequence[str]
    """Of "float64", "float32", "float16", "bfloat16", those that the backend computes in, the most exact one first: all
    checks compute in it, those of dtypes in the others too."""

    versions: Mapping[str, str]
    """Name -> version of what computes: the framework, its compiler."""

    modes: Sequence[str] = ("eager",)
    """Ways to run, such as ("eager", "jit"): all checks use the first, the checks of modes the others too."""

    devices: Sequence[str] = ("cpu",)
    """The available devices, such as ("cpu", "cuda"); the first is the default."""

    tolerance: float = 1.0
    """A multiplier of all tolerances, 1 unless the framework computes less exactly than IEEE 754; reports print it."""

    expected_failures: Mapping[str, str] = {}
    """Check by exact name -> why it fails. An expected failure that passes is a failure."""

    dtypes_of_mode: Mapping[str, Sequence[str]] = {}
    """Mode -> dtypes, for modes that do not compute in all of `dtypes`."""

    note: str = ""
    """A note to readers of the report."""

    any_callable: bool = True
    """Whether the calls take any callable as model; if not, override `model`, and some checks are not applicable."""

    def array(self, values: np.ndarray, dtype: str, device: str) -> Array:
        """`values` as an array of the framework, of `dtype` (for labels "int8" to "int64" and "uint8" too)."""
        raise NotImplementedError

    def numpy(self, array: Array) -> np.ndarray:
        """An array of the framework, without history, as NumPy array; bfloat16 as float32."""
        raise NotImplementedError

    def apply(self, network: Network, arrays: Arrays, x: Array) -> Array:
        """The outputs of a portable network for x of shape (B, *network.input_shape); dropout is the identity.

        `arrays` has the weights and statistics by path ("2.weight"; those of a layer in a residual block "1.0.weight"),
        and may have more. :mod:`gradreg_core.portable.networks` says what each layer computes.

        Raises:
            Exception: a layer that is not among `layers`.
        """
        raise NotImplementedError

    def value(self, function: Function, arrays: Arrays, mode: str) -> Array:
        """function(arrays), run in `mode`; `arrays` must not be changed."""
        raise NotImplementedError

    def value_and_gradients(self, function: Function, arrays: Arrays, mode: str) -> tuple[Array, dict[str, Array]]:
        """function(arrays), and the gradient with respect to every array by name, of its shape.

        Zeros where the function does not depend on an array, as the penalty of a linear model does not depend on x.
        """
        raise NotImplementedError

    def session(self) -> AbstractContextManager[Any]:
        """A context to hold while a check runs, such as a setting that float64 needs."""
        return nullcontext()

    def model(self, network: Network, arrays: Arrays) -> Any:
        """The model that is passed to a call."""
        return lambda x: self.apply(network, arrays, x)

    def parameter(self, array: Array) -> Array:
        """The array as something that is trained, which `check` looks for. Default: as it is, for any array may be."""
        return array

    def named_model(self, network: Network, arrays: Arrays) -> tuple[Any, Sequence[str]]:
        """A model of the framework's own that computes `apply`, and the name of each layer's output, for `at=`.

        Needed by a backend that declares `named_activations`.
        """
        raise NotImplementedError

    def own_model(self, trained: Array, frozen: Array) -> OwnModel | None:
        """A model of the framework's own, or None where models are functions of arrays alone.

        It computes (x A) * mask for x of shape (B, 3), A = trained @ trained @ frozen, with a mask of 0 and 1 that it
        draws anew at each pass from the generator that dropout uses. `trained` is a parameter in two places, one of
        them in a part of the model; `frozen` is one that is not trained. Each pass in training adds 1 to its state.
        """
        return None

    def random_state(self) -> Any:
        """The state of the generator that `own_model` draws from, as a value that compares; None if it has none."""
        return None

    def traces(self, array: Array) -> Any:
        """Whether an array has a history, and a gradient; None where arrays have neither."""
        return None

    def compiled(self, function: Function, mode: str) -> tuple[Function, Callable[[], int]] | None:
        """`function` compiled in `mode` for many calls, and how often it has been compiled; None in eager modes."""
        return None

    def no_gradient(self) -> AbstractContextManager[Any] | None:
        """The framework's mode in which nothing is differentiated; None if it has no such mode."""
        return None

    def release(self) -> None:
        """Drop compiled programs, of which a long run makes many. Default: nothing."""


OPTIONAL = ("named_model", "own_model", "random_state", "traces", "compiled", "no_gradient")
"""The methods of a harness without which some checks are not applicable, or look at less."""


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
        harness = attrgetter(attribute)(import_module(module))()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() too: its status is not a verdict
        raise PluginError(
            f"conformance: the harness {target!r}{owner} cannot be made: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(harness, Harness):
        raise PluginError(
            f"conformance: {target!r}{owner} must make a gradreg_conformance.harness.Harness, got {harness!r}; inherit "
            f"from it."
        )
    return harness
