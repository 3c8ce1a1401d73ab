"""State that a model changes hidden from JAX: attributes, closures, Keras variables.

A value created inside a function that JAX transforms must not remain in an object outside it, or a later use of the
object fails. So gradreg undoes the changes at the end of the function, returns them as results, and applies them then.
"""

import functools
import sys
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import jax

from gradreg_core.closures import referred
from gradreg_core.errors import InputError
from gradreg_jax.trees import is_array

__all__ = ["Attributes", "KerasVariables", "State", "refuse_haiku_state", "walk"]

_LIBRARIES = frozenset({"jax", "jaxlib", "numpy", "flax", "equinox", "optax", "keras", "tensorflow", "torch", "haiku"})
_OWN = frozenset({"gradreg_core", "gradreg_jax"})
_LONGEST = 1000
"""Larger lists and mappings are not searched."""
_MOST_OBJECTS = 20_000
_PASSED_OVER = (type, types.ModuleType, types.BuiltinFunctionType, str, bytes, bool, int, float, complex, type(None))


class State(ABC):
    """State that a forward pass may change."""

    @abstractmethod
    def scoped(self) -> AbstractContextManager[Callable[[], Any]]:
        """A context that undoes all changes at its end, and a function that returns the changes so far."""

    @abstractmethod
    def keep(self, changes: Any) -> None:
        """Apply changes, outside the context."""


class _Holder(ABC):
    """A location outside a function where it can leave values."""

    @abstractmethod
    def read(self) -> Mapping[Any, Any]: ...

    @abstractmethod
    def write(self, values: Mapping[Any, Any], removed: list[Any]) -> None: ...


class _Items(_Holder):
    """The items of a dictionary, such as the attributes of an object; `keys` limits them."""

    def __init__(self, target: dict[Any, Any], keys: Any = None) -> None:
        self.target, self.keys = target, keys

    def read(self) -> Mapping[Any, Any]:
        if self.keys is None:
            return dict(self.target)
        return {key: self.target[key] for key in self.keys if key in self.target}

    def write(self, values: Mapping[Any, Any], removed: list[Any]) -> None:
        self.target.update(values)
        for key in removed:
            self.target.pop(key, None)


class _Elements(_Holder):
    """The elements of a list."""

    def __init__(self, target: list[Any]) -> None:
        self.target = target

    def read(self) -> Mapping[Any, Any]:
        return dict(enumerate(self.target))

    def write(self, values: Mapping[Any, Any], removed: list[Any]) -> None:
        merged = dict(enumerate(self.target)) | dict(values)
        self.target[:] = [merged[index] for index in sorted(merged) if index not in removed]


class _Cell(_Holder):
    """A variable of an enclosing function."""

    def __init__(self, target: types.CellType) -> None:
        self.target = target

    def read(self) -> Mapping[Any, Any]:
        try:
            return {"": self.target.cell_contents}
        except ValueError:  # not yet assigned
            return {}

    def write(self, values: Mapping[Any, Any], removed: list[Any]) -> None:
        for value in values.values():
            self.target.cell_contents = value


class Attributes(State):
    """Arrays that a function leaves in objects, containers and variables that it refers to."""

    def __init__(self, holders: list[_Holder]) -> None:
        self.holders = holders

    @contextmanager
    def scoped(self) -> Iterator[Callable[[], Any]]:
        before = [holder.read() for holder in self.holders]

        def changes() -> list[Any]:
            pairs = enumerate(zip(self.holders, before, strict=True))
            return [[index, *changed] for index, (holder, old) in pairs if (changed := _new_arrays(holder.read(), old))]

        try:
            yield changes
        finally:
            for index, keys, _ in changes():
                old = before[index]
                own = {key: old[key] for key in keys if key in old}
                self.holders[index].write(own, [key for key in keys if key not in old])

    def keep(self, changes: Any) -> None:
        for index, keys, values in changes:
            self.holders[index].write(dict(zip(keys, values, strict=True)), [])


def _new_arrays(new: Mapping[Any, Any], old: Mapping[Any, Any]) -> tuple[list[Any], list[Any]] | None:
    """The keys with new values that hold arrays, and these values; None if there are none."""
    missing = object()
    changed = {
        key: value
        for key, value in new.items()
        if value is not old.get(key, missing) and any(map(is_array, jax.tree.leaves(value)))
    }
    return (list(changed), list(changed.values())) if changed else None


class KerasVariables(State):
    """The Keras variables that a function uses, on Keras' JAX backend."""

    @staticmethod
    def in_use() -> bool:
        """Whether Keras is imported, with the JAX backend."""
        keras = sys.modules.get("keras")
        return hasattr(keras, "StatelessScope") and keras.config.backend() == "jax"  # type: ignore[union-attr]

    @contextmanager
    def scoped(self) -> Iterator[Callable[[], Any]]:
        with _keras_scope()() as scope:
            yield lambda: [[own.assign, scope.get_current_value(own)] for own in scope.updated.values()]

    def keep(self, changes: Any) -> None:
        for assign, value in changes:
            assign(value)


@functools.cache
def _keras_scope() -> Any:
    class Scope(sys.modules["keras"].StatelessScope):  # type: ignore[misc, name-defined]
        """Collects the assignments of variables; inside another such scope it starts from the values there."""

        def __init__(self) -> None:
            super().__init__()
            self.updated: dict[int, Any] = {}

        def __enter__(self) -> Any:
            super().__enter__()
            if self.original_scope is not None:
                self.state_mapping.update(self.original_scope.state_mapping)
            return self

        def add_update(self, update: Any) -> None:
            variable = update[0]
            self.updated[id(variable)] = variable
            super().add_update(update)

    return Scope


def refuse_haiku_state() -> None:
    """Refuse a call inside a Haiku transform with state, which would keep traced values.

    Raises:
        InputError: the call is inside one.
    """
    haiku = sys.modules.get("haiku")
    if haiku is None:
        return
    try:
        starts = haiku.running_init()
    except ValueError:  # not inside a transform
        return
    if starts or haiku.get_current_state():
        raise InputError(
            "the call is inside a haiku.transform whose network has state or is being initialised, and JAX cannot "
            "follow state that Haiku keeps. Transform the network alone, net = haiku.transform_with_state(network), "
            "and pass Stateful(lambda x, state: net.apply(params, state, rng, x), state) from gradreg_jax.model as "
            "the model."
        )


def walk(model: Any, is_module: Callable[[Any], bool]) -> tuple[list[Any], list[_Holder]]:
    """The modules and changeable locations that a function or an object refers to.

    Args:
        model: the callable.
        is_module: whether an object is a module that manages its own state. Modules are not searched.
    """
    modules: list[Any] = []
    holders: list[_Holder] = []
    pending, seen = [model], set[int]()
    while pending and len(seen) < _MOST_OBJECTS:
        value = pending.pop()
        if isinstance(value, _PASSED_OVER) or id(value) in seen or is_array(value):
            continue
        seen.add(id(value))
        if is_module(value):
            modules.append(value)
            continue
        with suppress(Exception):  # reading an attribute may raise anything
            pending.append(value.__wrapped__)
        if _is_looked_into(value):
            holders += _holders(value)
            pending.extend(referred(value))
    return modules, holders


def _is_looked_into(value: Any) -> bool:
    if isinstance(value, dict | list | tuple | set | frozenset):
        return len(value) <= _LONGEST
    if isinstance(value, functools.partial):
        return True
    own = value if isinstance(value, types.FunctionType | types.MethodType) else type(value)
    root, *bases = (_package(owner) for owner in [own, *getattr(own, "__mro__", [])])
    return not (_LIBRARIES | _OWN) & {root, *bases} and (root == "__main__" or root not in sys.stdlib_module_names)


def _package(owner: Any) -> str:
    return str(getattr(owner, "__module__", "")).partition(".")[0]


def _holders(value: Any) -> list[_Holder]:
    if isinstance(value, types.FunctionType):
        cells: list[_Holder] = [_Cell(cell) for cell in value.__closure__ or ()]
        return [*cells, _Items(value.__globals__, value.__code__.co_names)]
    if isinstance(value, list):
        return [_Elements(value)]
    target = value if type(value) is dict else getattr(value, "__dict__", None)
    return [_Items(target)] if type(target) is dict else []
