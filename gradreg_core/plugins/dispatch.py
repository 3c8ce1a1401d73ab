"""Chooses the backend of a call: by name, by GRADREG_BACKEND, or by the type of the input."""

import difflib
import os
import sys
from collections.abc import Callable
from functools import wraps
from inspect import signature
from operator import attrgetter
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from gradreg_core.backend import Backend
from gradreg_core.calls import Calls
from gradreg_core.errors import (
    BackendImportError,
    BackendNotFoundError,
    GradregError,
    InputTypeError,
    PluginError,
    UnsupportedError,
)
from gradreg_core.inputs import Inputs
from gradreg_core.plugins.discovery import DISABLE_VARIABLE, BackendRecord, backends, missing_modules, plugins_disabled
from gradreg_core.plugins.hookspecs import BackendDescription, Component
from gradreg_core.plugins.lazy import import_heavy
from gradreg_core.structures import flatten

__all__ = [
    "BACKEND_VARIABLE",
    "backend_of",
    "check",
    "find_backend",
    "load_backend",
    "load_component",
    "loss",
    "measure",
    "penalty",
]

BACKEND_VARIABLE = "GRADREG_BACKEND"
_CALLS = ("loss", "penalty", "measure", "check")
_instances: dict[BackendDescription, Calls] = {}
_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


def load_backend(name: str | None = None) -> Calls:
    """The calls `loss`, `penalty`, `measure` and `check` of one backend; loaded once.

    Args:
        name: such as ``"torch"``; None takes the environment variable GRADREG_BACKEND.

    Returns:
        A :class:`gradreg_core.calls.Calls`, or the backend's own object with the same four calls.

    Raises:
        BackendNotFoundError: no backend with that name is registered, or none was named.
        BackendImportError: a module that the backend needs is not installed.
        PluginError: its plugin is broken, or several plugins claim the name.
    """
    record = find_backend(name)
    description = record.description
    assert description is not None
    if description not in _instances:
        _instances[description] = _make(record, description.factory, _call(name, record.name))
    return _instances[description]


def find_backend(name: str | None = None) -> BackendRecord:
    """The record of the backend that :func:`load_backend` would load, without importing it.

    Raises:
        BackendNotFoundError, BackendImportError, PluginError: as :func:`load_backend`.
    """
    wanted = _wanted(name)
    named = [record for record in backends() if record.name == wanted]
    usable = [record for record in named if record.status != "broken"]
    call = _call(name, wanted)
    if not named:
        raise BackendNotFoundError(f"{call}: no backend of this name is registered. {_known(wanted)}")
    if not usable:
        record = named[0]
        if record.description is not None:
            raise PluginError(f"{call}: {record.reason}.")
        remedy = f"Fix or uninstall {record.plugin.distribution}; 'gradreg backends' lists every plugin."
        raise PluginError(f"{call}: its plugin is broken: {record.plugin}: {record.reason}. {remedy}") from (
            record.plugin.error
        )
    description = usable[0].description
    assert description is not None
    if missing := missing_modules(description):
        modules = ", ".join(map(repr, missing))
        raise BackendImportError(f"{call}: {modules} is not installed. Install it with: {description.install}")
    return usable[0]


def load_component(name: str, component: Component) -> Any:
    """Import a component that a backend has besides its calls, such as its harness.

    Args:
        name: of the backend.
        component: the field of :class:`BackendDescription` that names it, such as ``"trainer"``.

    Raises:
        UnsupportedError: the backend declares no such component.
        BackendImportError: something that the component imports is not installed.
        BackendNotFoundError, PluginError: as :func:`load_backend`; also if the component is not where it is declared.
    """
    call = f"load_component({name!r}, {component!r})"
    record = find_backend(name)
    assert record.description is not None
    if not (target := getattr(record.description, component)):
        usable = [other for other in backends() if other.status == "ok" and getattr(other.description, component)]
        names = ", ".join(other.name for other in usable) or "none"
        raise UnsupportedError(
            f"{call}: the backend {name!r} declares no {component}. Give its BackendDescription {component}="
            f"'module:attribute', or choose a backend that has one: {names}."
        )
    return _attribute(call, record, target)


def backend_of(array: Any) -> str:
    """The name of the backend that `array` belongs to, by its type; no framework is imported to find out.

    In a structure, or in :class:`gradreg_core.inputs.Inputs`, the first array counts.

    Tracers and other stand-ins for arrays count as arrays of their framework. NumPy arrays, numbers and lists of them
    belong to ``"numpy"``, unless the environment variable GRADREG_BACKEND names another.

    Raises:
        InputTypeError: no backend has arrays of this type.
    """
    chosen = os.environ.get(BACKEND_VARIABLE, "").strip()
    leaf = _first_array(array)
    owners: dict[str, list[str]] = {}
    for record in backends():
        for module in () if record.description is None else record.description.array_modules:
            owners.setdefault(module, []).append(record.name)
    for cls in type(leaf).__mro__:
        module = str(cls.__module__).partition(".")[0]
        if module == "numpy":
            return chosen or "numpy"
        if module in owners and module in sys.modules:
            return chosen if chosen in owners[module] else owners[module][0]
    if isinstance(leaf, bool | int | float | complex | list | tuple):
        return chosen or "numpy"
    names = ", ".join(dict.fromkeys(name for claimants in owners.values() for name in claimants))
    raise InputTypeError(
        f"backend_of: expected an array of one of the backends ({names}), got {type(leaf).__module__}."
        f"{type(leaf).__qualname__}. Convert it, or call load_backend(name) and use its calls."
    )


def _first_array(value: Any) -> Any:
    """The first leaf of a structure that has a shape, else the first number of a list, else `value`."""
    structure = [*value.args, *value.kwargs.values()] if isinstance(value, Inputs) else value
    leaves = [leaf for _, leaf in flatten(structure, lambda part: hasattr(part, "shape"))[0]]
    leaf = next((leaf for leaf in leaves if hasattr(leaf, "shape")), value)
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    return leaf


def _by_input(method: Callable[Concatenate[Calls, _Parameters], _Result]) -> Callable[_Parameters, _Result]:
    """A function with the signature of a method of :class:`Calls`, which calls it on the backend of its input `x`."""
    whole = signature(method)
    own = whole.replace(parameters=list(whole.parameters.values())[1:])

    @wraps(method)
    def dispatched(*args: _Parameters.args, **options: _Parameters.kwargs) -> _Result:
        if len(args) < 2 and "x" not in options:
            own.bind(*args, **options)  # raises the TypeError of a call without x
        x = args[1] if len(args) > 1 else options["x"]
        call: Callable[_Parameters, _Result] = getattr(load_backend(backend_of(x)), method.__name__)
        return call(*args, **options)

    dispatched.__module__, dispatched.__qualname__ = __name__, method.__name__
    dispatched.__signature__ = own  # type: ignore[attr-defined]
    return dispatched


loss = _by_input(Calls.loss)
penalty = _by_input(Calls.penalty)
measure = _by_input(Calls.measure)
check = _by_input(Calls.check)


def _wanted(name: str | None) -> str:
    if name is not None and not isinstance(name, str):
        raise InputTypeError(f"load_backend: name must be a string such as 'torch', got {name!r}.")
    wanted = os.environ.get(BACKEND_VARIABLE, "").strip() if name is None else name
    if not wanted:
        reason = "no backend was named and GRADREG_BACKEND is not set" if name is None else "the name is empty"
        raise BackendNotFoundError(f"load_backend: {reason}. {_known('')}")
    return wanted


def _call(name: str | None, wanted: str) -> str:
    """The call, for messages."""
    return f"load_backend() with GRADREG_BACKEND={wanted!r}" if name is None else f"load_backend({wanted!r})"


def _known(wanted: str) -> str:
    """The available names, the nearest first."""
    states: dict[str, str] = {}
    for record in backends():
        if states.get(record.name, "broken") == "broken":
            states[record.name] = record.status
    listed = ", ".join(name if state == "ok" else f"{name} ({state})" for name, state in states.items())
    close = difflib.get_close_matches(wanted.lower(), states, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    hidden = f" {DISABLE_VARIABLE} is set, so plugins are not considered." if plugins_disabled() else ""
    return f"{hint}Available: {listed or 'none'}.{hidden} 'gradreg backends' says more."


def _make(record: BackendRecord, factory: str, call: str) -> Calls:
    """The factory's result, wrapped unless it has the calls itself."""
    owner = f"{call}: the backend of {record.plugin}"
    try:
        backend = _attribute(call, record, factory)()
    except (GradregError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() too: a backend must not end a training
        raise PluginError(f"{owner} cannot be made: {factory} raised {type(error).__name__}: {error}") from error
    if all(callable(getattr(backend, name, None)) for name in _CALLS):
        return cast("Calls", backend)
    if not isinstance(backend, Backend):
        raise PluginError(
            f"{owner} is broken: {factory} must return a gradreg_core.backend.Backend, or an object with "
            f"{', '.join(_CALLS)}; it returned {backend!r}."
        )
    return Calls(backend)


def _attribute(call: str, record: BackendRecord, target: str) -> Any:
    """The attribute that ``"module:attribute"`` names, in a description of `record`."""
    assert record.description is not None
    path, _, attribute = target.partition(":")
    module = import_heavy(call, path, record.description.install)
    try:
        return attrgetter(attribute)(module)
    except AttributeError as error:
        raise PluginError(f"{call}: {record.plugin} names {target}, which is not there: {error}.") from error
