"""Nested structures: their leaves with dotted paths, rebuilding them from new leaves, and following a path."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

__all__ = ["Leaves", "Rebuild", "alone", "flatten", "follow", "joined", "read_once", "restricted"]

Leaves = list[tuple[str, Any]]
"""(path, leaf): "tokens", "0.mask"; the path of a leaf that is the whole structure is ""."""
Rebuild = Callable[[Sequence[Any]], Any]
"""Leaves in the same order -> the structure that holds them."""


def alone(leaves: Sequence[Any]) -> Any:
    """The structure that consists of its only leaf."""
    return leaves[0]


def flatten(structure: Any, is_leaf: Callable[[Any], bool]) -> tuple[Leaves, Rebuild]:
    """The leaves of dicts, lists, tuples, named tuples and dataclasses, and a function that rebuilds from new leaves.

    Args:
        structure: any value. A value that is not one of these containers is a leaf.
        is_leaf: whether a container counts as one leaf.
    """
    parts = None if is_leaf(structure) else _children(structure)
    if parts is None:
        return [("", structure)], alone
    keys, children, assemble = parts
    flattened = [flatten(child, is_leaf) for child in children]
    leaves = [
        (joined(str(key), path), leaf) for key, (below, _) in zip(keys, flattened, strict=True) for path, leaf in below
    ]

    def rebuild(new: Sequence[Any]) -> Any:
        start, values = 0, []
        for below, rebuild_child in flattened:
            values.append(rebuild_child(new[start : start + len(below)]))
            start += len(below)
        return assemble(values)

    return leaves, rebuild


def restricted(leaves: Leaves, rebuild: Rebuild, keep: Callable[[Any], bool]) -> tuple[Leaves, Rebuild]:
    """The leaves that `keep` holds for, and a function that replaces them and leaves the rest."""
    chosen = [index for index, (_, leaf) in enumerate(leaves) if keep(leaf)]

    def rebuild_all(new: Sequence[Any]) -> Any:
        values = [leaf for _, leaf in leaves]
        for index, value in zip(chosen, new, strict=True):
            values[index] = value
        return rebuild(values)

    return [leaves[index] for index in chosen], rebuild_all


def joined(first: str, rest: str) -> str:
    """Two parts of a path as one."""
    return f"{first}.{rest}" if first and rest else first or rest


def follow(structure: Any, path: str | int) -> Any:
    """Follow `path`: keys, attributes and positions, joined by dots.

    Raises:
        KeyError: the path leads nowhere; the error holds the part that failed.
    """
    for key in str(path).split("."):
        structure = _step(structure, key)
    return structure


def read_once(structure: Any) -> Any:
    """The structure's leaves in plain containers, with tuples for iterators, which can be read only once."""
    if isinstance(structure, Iterator | list | tuple):
        return tuple(map(read_once, structure))
    if isinstance(structure, Mapping):
        return {key: read_once(value) for key, value in structure.items()}
    return structure


def _step(structure: Any, key: str) -> Any:
    if isinstance(structure, Mapping):
        if key in structure:
            return structure[key]
        if key.isdecimal() and int(key) in structure:
            return structure[int(key)]
        raise KeyError(key)
    if key.lstrip("-").isdecimal() and isinstance(structure, Sequence) and not isinstance(structure, str):
        try:
            return structure[int(key)]
        except IndexError:
            raise KeyError(key) from None
    try:
        return getattr(structure, key)
    except AttributeError:
        raise KeyError(key) from None


def _children(structure: Any) -> tuple[list[Any], list[Any], Callable[[list[Any]], Any]] | None:
    """(keys, children, function from children to the container), or None for a leaf."""
    if isinstance(structure, Mapping):
        named = all(isinstance(key, str) for key in structure)
        keys = sorted(structure) if named else list(structure)  # sorted, since jit forgets the order of insertion

        def assembled(values: list[Any]) -> Any:
            given = dict(zip(keys, values, strict=True))
            return _mapping(structure, {key: given[key] for key in structure})

        return keys, [structure[key] for key in keys], assembled
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return list(structure._fields), list(structure), lambda values: type(structure)(*values)
    if type(structure) in (list, tuple):
        return list(range(len(structure))), list(structure), type(structure)
    if is_dataclass(structure) and not isinstance(structure, type) and all(field.init for field in fields(structure)):
        names = [field.name for field in fields(structure)]
        values = [getattr(structure, name) for name in names]
        return names, values, lambda values: type(structure)(**dict(zip(names, values, strict=True)))
    return None


def _mapping(original: Any, values: dict[Any, Any]) -> Any:
    if type(original) is dict:
        return values
    try:
        return type(original)(**values) if all(isinstance(key, str) for key in values) else type(original)(values)
    except TypeError:
        return type(original)(values)
