"""Which backend a call goes to: by name, by GRADREG_BACKEND, or by the type of the input."""

import difflib
import os
import sys
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from gradreg_core.errors import BackendImportError, BackendNotFoundError, GradregError, InputTypeError, PluginError
from gradreg_core.plugins.lazy import import_heavy

if TYPE_CHECKING:
    from gradreg_core.calls import Calls
    from gradreg_core.plugins.discovery import BackendRecord
    from gradreg_core.plugins.hookspecs import BackendDescription

__all__ = ["BACKEND_VARIABLE", "backend_of", "check", "find_backend", "load_backend", "loss", "measure", "penalty"]

BACKEND_VARIABLE = "GRADREG_BACKEND"
_CALLS = ("loss", "penalty", "measure", "check")
_instances: "dict[BackendDescription, Calls]" = {}


def load_backend(name: str | None = None) -> "Calls":
    """The calls `loss`, `penalty`, `measure` and `check` of one backend; loaded once.

    Args:
        name: such as ``"torch"``; None takes the environment variable GRADREG_BACKEND.

    Returns:
        A :class:`gradreg_core.calls.Calls`, or what the backend brings in its place, with the same four calls.

    Raises:
        BackendNotFoundError: no backend of that name is registered, or none was named.
        BackendImportError: what the backend needs is not installed.
        PluginError: its plugin is broken, or several plugins claim the name.
    """
    record = find_backend(name)
    description = record.description
    assert description is not None
    if description not in _instances:
        _instances[description] = _make(description, record, _call(name, record.name))
    return _instances[description]


def find_backend(name: str | None = None) -> "BackendRecord":
    """The record of the backend that :func:`load_backend` would load, without importing it.

    Raises:
        BackendNotFoundError, BackendImportError, PluginError: as :func:`load_backend`.
    """
    from gradreg_core.plugins.discovery import backends, missing_modules

    wanted = _wanted(name)
    named = [record for record in backends() if record.name == wanted]
    usable = [record for record in named if record.status != "broken"]
    call = _call(name, wanted)
    if not named:
        raise BackendNotFoundError(f"{call}: no backend of this name is registered. {_known(wanted)}")
    if not usable:
        record = named[0]
        if record.description is not None and record.plugin.status != "broken":
            remedy = "Uninstall one of them, or set GRADREG_DISABLE_PLUGINS=1 to use the built-in backends only."
            raise PluginError(f"{call}: {record.reason}. {remedy}")
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


def backend_of(array: Any) -> str:
    """The name of the backend that `array` belongs to, by its type; no framework is imported to find out.

    Tracers and other stand-ins for arrays count as arrays of their framework. NumPy arrays, numbers and lists of them
    belong to ``"numpy"``, unless the environment variable GRADREG_BACKEND names another.

    Raises:
        InputTypeError: no backend has arrays of this type.
    """
    from gradreg_core.plugins.discovery import backends

    chosen = os.environ.get(BACKEND_VARIABLE, "").strip()
    leaf = array
    while isinstance(leaf, list | tuple) and leaf:
        leaf = leaf[0]
    owners: dict[str, list[str]] = {}
    for record in backends():
        if record.description is not None and record.plugin.status != "broken":
            for module in record.description.array_modules:
                owners.setdefault(module, []).append(record.name)
    for cls in type(leaf).__mro__:
        module = str(cls.__module__).partition(".")[0]
        if module == "numpy":
            return chosen or "numpy"
        if module in owners and module in sys.modules:
            return chosen if chosen in owners[module] else owners[module][0]
    if isinstance(leaf, bool | int | float | complex | list | tuple):
        return chosen or "numpy"
    names = ", ".join(dict.fromkeys(name for each in owners.values() for name in each))
    raise InputTypeError(
        f"backend_of: expected an array of one of the backends ({names}), got {type(leaf).__module__}."
        f"{type(leaf).__qualname__}. Convert it, or call load_backend(name) and use its calls."
    )


def loss(model: Any, x: Any, y: Any, reg: Any, **options: Any) -> Any:
    """:meth:`gradreg_core.calls.Calls.loss` of the backend that `x` belongs to.

    Raises:
        GradregError: as :func:`backend_of`, :func:`load_backend` and the call itself.
    """
    return load_backend(backend_of(x)).loss(model, x, y, reg, **options)


def penalty(model: Any, x: Any, y: Any, reg: Any, **options: Any) -> Any:
    """:meth:`gradreg_core.calls.Calls.penalty` of the backend that `x` belongs to.

    Raises:
        GradregError: as :func:`loss`.
    """
    return load_backend(backend_of(x)).penalty(model, x, y, reg, **options)


def measure(model: Any, x: Any, y: Any = None, **options: Any) -> Any:
    """:meth:`gradreg_core.calls.Calls.measure` of the backend that `x` belongs to.

    Raises:
        GradregError: as :func:`loss`.
    """
    return load_backend(backend_of(x)).measure(model, x, y, **options)


def check(model: Any, x: Any, y: Any, reg: Any, **options: Any) -> Any:
    """:meth:`gradreg_core.calls.Calls.check` of the backend that `x` belongs to.

    Raises:
        GradregError: as :func:`loss`.
    """
    return load_backend(backend_of(x)).check(model, x, y, reg, **options)


def _wanted(name: str | None) -> str:
    if name is not None and not isinstance(name, str):
        raise InputTypeError(f"load_backend: name must be a string such as 'torch', got {name!r}.")
    wanted = os.environ.get(BACKEND_VARIABLE, "").strip() if name is None else name
    if not wanted:
        what = "no backend was named and GRADREG_BACKEND is not set" if name is None else "the name is empty"
        raise BackendNotFoundError(f"load_backend: {what}. {_known('')}")
    return wanted


def _call(name: str | None, wanted: str) -> str:
    """The call, for messages."""
    return f"load_backend() with GRADREG_BACKEND={wanted!r}" if name is None else f"load_backend({wanted!r})"


def _known(wanted: str) -> str:
    """What there is to ask for, the nearest first."""
    from gradreg_core.plugins.discovery import DISABLE_VARIABLE, backends, plugins_disabled

    states: dict[str, str] = {}
    for record in backends():
        if states.get(record.name, "broken") == "broken":
            states[record.name] = record.status
    listed = ", ".join(name if state == "ok" else f"{name} ({state})" for name, state in states.items())
    close = difflib.get_close_matches(wanted.lower(), states, n=1)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    hidden = f" {DISABLE_VARIABLE} is set, so plugins are not considered." if plugins_disabled() else ""
    return f"{hint}Available: {listed or 'none'}.{hidden} 'gradreg backends' says more."


def _make(description: "BackendDescription", record: "BackendRecord", call: str) -> "Calls":
    """What the factory makes, wrapped unless it has the calls itself."""
    from gradreg_core.calls import Calls

    owner = f"{call}: the backend of {record.plugin}"
    path, _, attribute = description.factory.partition(":")
    try:
        backend = attrgetter(attribute)(import_heavy(call, path, description.install))()
    except GradregError:
        raise
    except Exception as error:
        raise PluginError(
            f"{owner} cannot be made: {description.factory} raised {type(error).__name__}: {error}"
        ) from error
    if all(callable(getattr(backend, each, None)) for each in _CALLS):
        return cast("Calls", backend)
    if not callable(getattr(backend, "vjp", None)):
        raise PluginError(
            f"{owner} is broken: {description.factory} must return a gradreg_core.backend.Backend, or an object with "
            f"{', '.join(_CALLS)}; it returned {backend!r}."
        )
    return Calls(backend)
