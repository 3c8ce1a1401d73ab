"""Nested structures in JAX: their leaves with dotted paths, and their way out of a function that JAX transforms."""

import sys
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from itertools import islice
from typing import Any

import jax
import numpy as np

from gradreg_core import structures
from gradreg_core.inputs import Inputs
from gradreg_core.structures import Leaves, Rebuild, joined, restricted

__all__ = ["Carrier", "flatten", "floating_leaves", "is_array"]


def is_array(value: Any) -> bool:
    """Whether the value is a JAX array, traced or not, or a NumPy array that JAX accepts: not text, not masked."""
    if not isinstance(value, np.ndarray):
        return isinstance(value, jax.Array)
    numeric = jax.numpy.issubdtype(value.dtype, np.number) or value.dtype == np.bool_
    return numeric and not isinstance(value, np.ma.MaskedArray)


def flatten(structure: Any) -> tuple[Leaves, Rebuild]:
    """The leaves of a pytree with dotted paths, and a function that replaces them.

    Dataclasses and mappings that JAX does not know are searched as well.
    """
    pairs, tree = jax.tree_util.tree_flatten_with_path(structure, _sparse())
    inner = [structures.flatten(leaf, is_array) for _, leaf in pairs]
    leaves = [
        (joined(jax.tree_util.keystr(path, simple=True, separator="."), below), leaf)
        for (path, _), (part, _) in zip(pairs, inner, strict=True)
        for below, leaf in part
    ]
    return leaves, lambda new: jax.tree.unflatten(tree, _rebuilt_parts(inner, new))


def _sparse() -> Callable[[Any], bool] | None:
    """Whether a value is a sparse array, which is not a structure of dense ones; None if they are not in use."""
    sparse = sys.modules.get("jax.experimental.sparse")
    return None if sparse is None else lambda value: isinstance(value, sparse.JAXSparse)


def _rebuilt_parts(parts: Sequence[tuple[Leaves, Rebuild]], new: Sequence[Any]) -> list[Any]:
    """Rebuild each part from its share of all leaves."""
    remaining = iter(new)
    return [rebuild(list(islice(remaining, len(leaves)))) for leaves, rebuild in parts]


class Carrier:
    """Carries a structure out of a function that JAX transforms: its arrays as results, the rest unchanged."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._rebuild: Rebuild = list

    def pack(self, structure: Any) -> list[Any]:
        """The arrays in the structure, and in attributes of objects there; inside the function."""
        pairs, self._rebuild = _flatten_objects(structure)
        arrays = [leaf for _, leaf in pairs if is_array(leaf)]
        self._leaves = [None if is_array(leaf) else (leaf,) for _, leaf in pairs]
        return arrays

    def unpack(self, arrays: Sequence[Any]) -> Any:
        """The structure with these arrays; outside the function."""
        remaining = iter(arrays)
        return self._rebuild([next(remaining) if leaf is None else leaf[0] for leaf in self._leaves])


def _flatten_objects(structure: Any) -> tuple[Leaves, Rebuild]:
    """Like `flatten`, with the attributes of objects that hold arrays as further leaves."""
    pairs, rebuild = flatten(structure)
    inner = [_flatten_attributes(leaf) for _, leaf in pairs]
    return [pair for part, _ in inner for pair in part], lambda new: rebuild(_rebuilt_parts(inner, new))


def _flatten_attributes(leaf: Any) -> tuple[Leaves, Rebuild]:
    attributes = {} if is_array(leaf) or callable(leaf) else getattr(leaf, "__dict__", {})
    pairs, rebuild = flatten(dict(attributes))
    if not any(is_array(value) for _, value in pairs):
        return [("", leaf)], lambda new: new[0]

    def rebuilt(new: Sequence[Any]) -> Any:
        other = copy(leaf)
        vars(other).update(rebuild(new))
        return other

    return pairs, rebuilt


def _flatten_inputs(inputs: Inputs) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    given: dict[Any, Any] = {**dict(enumerate(inputs.args)), **inputs.kwargs}
    static = {name: value for name, value in given.items() if isinstance(value, bool | str)}
    keys = [name for name in given if name not in static]
    children = [(jax.tree_util.DictKey(name), given[name]) for name in keys]
    return children, (tuple(keys), tuple(static.items()), len(inputs.args), inputs.wrt)


def _unflatten_inputs(rest: tuple[Any, ...], children: Iterable[Any]) -> Inputs:
    keys, static, count, wrt = rest
    given = dict(static) | dict(zip(keys, children, strict=True))
    named = {name: value for name, value in given.items() if isinstance(name, str)}
    return Inputs(*(given[index] for index in range(count)), wrt=wrt, **named)


# Several arguments pass through jit and its like: True, False and strings are static there, the rest are pytrees.
jax.tree_util.register_pytree_with_keys(Inputs, _flatten_inputs, _unflatten_inputs)


def floating_leaves(structure: Any) -> tuple[Leaves, Rebuild]:
    """The floating-point arrays among the leaves of a structure, and a function that replaces them."""
    pairs, rebuild = flatten(structure)
    return restricted(pairs, rebuild, lambda leaf: is_array(leaf) and _is_floating(leaf))


def _is_floating(array: Any) -> bool:
    return bool(jax.numpy.issubdtype(array.dtype, jax.numpy.floating))
