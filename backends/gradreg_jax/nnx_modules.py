"""Flax NNX modules: their state as values, copies that a transformed function may change, names of their parts.

Flax is not imported here: a user who passes its module has imported it.
"""

import functools
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gradreg_core.taps import Places, active_places
from gradreg_jax.hidden import State
from gradreg_jax.trees import floating_leaves

__all__ = ["ModuleState", "batch_norms", "is_module", "parameters", "part_names"]

_swapping = threading.RLock()


def is_module(value: Any) -> bool:
    """Whether the value is an NNX module, or a generator of random keys."""
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, nnx.Module | nnx.Rngs)


class ModuleState(State):
    """The variables and arrays of modules.

    Args:
        modules: they may share parts.
        in_place: whether a function refers to the modules directly, so that it must change them and not copies; other
            threads wait meanwhile. Otherwise copies take their place: `stand_ins`.
    """

    def __init__(self, modules: list[Any], in_place: bool) -> None:
        self.modules, self.in_place = modules, in_place
        self.stand_ins = modules
        with _swapping:  # another thread's copies may be in place of the modules
            self._graph, self._variables = _nnx().split(modules)

    @contextmanager
    def scoped(self) -> Iterator[Callable[[], Any]]:
        nnx = _nnx()
        copies = nnx.merge(self._graph, self._variables, copy=True)
        for copy in copies:
            _name_parts(copy)
        before = {path: _raw(leaf) for path, leaf in _leaves(copies)}

        def changes() -> list[Any]:
            missing = object()
            return [[path, leaf] for path, leaf in _leaves(copies) if _raw(leaf) is not before.get(path, missing)]

        if not self.in_place:
            self.stand_ins = copies
            yield changes
            return
        with _swapping:
            own = [vars(module) for module in self.modules]
            try:
                for module, copy in zip(self.modules, copies, strict=True):
                    object.__setattr__(module, "__dict__", vars(copy))
                yield changes
            finally:
                for module, attributes in zip(self.modules, own, strict=True):
                    object.__setattr__(module, "__dict__", attributes)

    def keep(self, changes: Any) -> None:
        if not changes:
            return
        nnx = _nnx()
        with _swapping:
            own = dict(_leaves(self.modules))
            for path, _ in changes:
                if isinstance(own.get(path), nnx.Variable):
                    own[path].set_raw_value(own[path].get_raw_value())  # raises if it belongs to another trace
            kept = [(path, _as_kept(leaf, own.get(path))) for path, leaf in changes]
            nnx.update(self.modules, nnx.from_flat_state(kept))

    @contextmanager
    def restored(self) -> Iterator[None]:
        """A context that undoes the changes of calls inside."""
        leaves = _leaves(self.modules)
        before = [(variable, _raw(variable)) for _, variable in leaves if _is_variable(variable)]
        arrays = [(path, leaf) for path, leaf in leaves if not _is_variable(leaf)]
        try:
            yield
        finally:
            for variable, value in before:
                if variable.get_raw_value() is not value:
                    variable.set_raw_value(value)
            now = dict(_leaves(self.modules))
            changed = [(path, leaf) for path, leaf in arrays if now.get(path) is not leaf]
            if changed:
                _nnx().update(self.modules, _nnx().from_flat_state(changed))


def parameters(module: Any) -> Any:
    """A pytree of the trainable variables of a module."""
    return _nnx().state(module, _nnx().Param)


def batch_norms(model: Any) -> list[str]:
    """The names of a module's batch normalisations in training mode."""
    nnx = sys.modules.get("flax.nnx")
    if nnx is None or not isinstance(model, nnx.Module):
        return []
    return [
        ".".join(map(str, path)) or "the model"
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.BatchNorm) and not module.use_running_average
    ]


def part_names(modules: list[Any]) -> list[str]:
    """The names of the parts of modules: their paths, joined by dots."""
    return [".".join(map(str, path)) for module in modules for path, _ in _parts(module)]


def _nnx() -> Any:
    return sys.modules["flax.nnx"]


def _leaves(modules: list[Any]) -> list[tuple[Any, Any]]:
    """(path, variable or array) of all state in the modules."""
    return list(_nnx().to_flat_state(_nnx().state(modules)))


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, _nnx().Variable)


def _raw(leaf: Any) -> Any:
    """The value of a variable; an array unchanged."""
    return leaf.get_raw_value() if _is_variable(leaf) else leaf


def _as_kept(leaf: Any, own: Any) -> Any:
    """A new variable itself, or the value of an existing one."""
    return _raw(leaf) if own is not None else leaf


def _parts(module: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    nnx = _nnx()
    if isinstance(module, nnx.Module):
        yield from ((path, part) for path, part in nnx.iter_modules(module) if path)


def _name_parts(copy: Any) -> None:
    """Make the parts of a copy whose names the pass asks for visit their places when they are called."""
    places = active_places()
    if places is None:
        return
    for path, part in _parts(copy):
        name = ".".join(map(str, path))
        if places.wants(name):
            object.__setattr__(part, "__class__", _visiting(type(part), name))  # type: ignore[arg-type]


@functools.lru_cache(256)
def _visiting(cls: Any, name: str) -> Any:
    """A subclass whose calls visit the place with this name."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        returned = cls.__call__(self, *args, **kwargs)
        places: Places | None = active_places()
        return returned if places is None else places.visit(name, returned, floating_leaves)

    return type(cls)(cls.__name__, (cls,), {"__call__": call, "__module__": cls.__module__})
