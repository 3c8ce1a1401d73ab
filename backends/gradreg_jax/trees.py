"""Nested structures in JAX: their leaves with dotted paths, and how they leave a function that JAX transforms."""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from gradreg_core import structures
from gradreg_core.inputs import Inputs
from gradreg_core.structures import Leaves, Rebuild, joined

__all__ = ["Carrier", "flatten", "floating_leaves", "is_array"]


def is_array(value: Any) -> bool:
    """Whether the value is an array of JAX, traced or not, or of NumPy."""
    return isinstance(value, jax.Array | np.ndarray)


def flatten(structure: Any) -> tuple[Leaves, Rebuild]:
    """The leaves of a pytree with dotted paths, and a function that puts others in their place.

    Dataclasses and mappings that JAX does not know are looked into as well.
    """
    pairs, tree = jax.tree_util.tree_flatten_with_path(structure)
    inner = [structures.flatten(leaf, is_array) for _, leaf in pairs]
    leaves = [
        (joined(jax.tree_util.keystr(path, simple=True, separator="."), below), leaf)
        for (path, _), (part, _) in zip(pairs, inner, strict=True)
        for below, leaf in part
    ]

    def rebuild(new: Sequence[Any]) -> Any:
        start, values = 0, []
        for part, rebuild_part in inner:
            values.append(rebuild_part(new[start : start + len(part)]))
            start += len(part)
        return jax.tree.unflatten(tree, values)

    return leaves, rebuild


class Carrier:
    """Takes one structure out of a function that JAX transforms: its arrays as results, the rest as it is."""

    def __init__(self) -> None:
        self._leaves: list[Any] = []
        self._rebuild: Rebuild = list

    def pack(self, structure: Any) -> list[Any]:
        """The arrays in the structure; inside of the function."""
        pairs, self._rebuild = flatten(structure)
        arrays = [leaf for _, leaf in pairs if is_array(leaf)]
        self._leaves = [None if is_array(leaf) else (leaf,) for _, leaf in pairs]
        return arrays

    def unpack(self, arrays: Sequence[Any]) -> Any:
        """The structure with these arrays; outside of the function."""
        remaining = iter(arrays)
        return self._rebuild([next(remaining) if leaf is None else leaf[0] for leaf in self._leaves])


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


# Several arguments pass through jit and the like: True, False and strings are static there, the rest are pytrees.
jax.tree_util.register_pytree_with_keys(Inputs, _flatten_inputs, _unflatten_inputs)


def floating_leaves(structure: Any) -> tuple[Leaves, Rebuild]:
    """The leaves of a structure that are floating-point arrays, and a function that puts others in their place."""
    pairs, rebuild = flatten(structure)
    chosen = [index for index, (_, leaf) in enumerate(pairs) if is_array(leaf) and _is_floating(leaf)]

    def rebuild_all(new: Sequence[Any]) -> Any:
        leaves = [leaf for _, leaf in pairs]
        for index, value in zip(chosen, new, strict=True):
            leaves[index] = value
        return rebuild(leaves)

    return [pairs[index] for index in chosen], rebuild_all


def _is_floating(array: Any) -> bool:
    return bool(jax.numpy.issubdtype(array.dtype, jax.numpy.floating))
