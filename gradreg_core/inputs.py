"""The input of a model: one array, a nested structure, or several arguments."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.keras_masks import with_keras_mask
from gradreg_core.layout import FLOATING, is_floating
from gradreg_core.structures import Rebuild, alone

__all__ = ["Arguments", "Inputs", "pack", "unpack", "when_made"]


_when_made: list[Callable[[], bool]] = []


def when_made(prepare: Callable[[], bool]) -> None:
    """Call `prepare` whenever :class:`Inputs` are made, until it returns True: it registers them with a framework."""
    _when_made.append(prepare)


class Inputs:
    """Several arguments of a model: it is called as ``model(*args, **kwargs)``.

    ::

        x = gradreg.Inputs(images, condition)
        x = gradreg.Inputs(inputs_embeds=embedded, attention_mask=mask)
        total, parts = gradreg.loss(model, x, y, reg)

    Args:
        *args: arrays, nested structures of arrays, or values that are not arrays (True, None, "mean").
        wrt: which arrays the Jacobian is with respect to, by path: the position or the keyword, then keys and positions
            joined by dots ("0", "inputs_embeds", "0.tokens"). A path of a structure stands for all floating-point
            arrays in it. None: all floating-point arrays. The norms run over all of them together.
        **kwargs: as `args`.

    Every array has the batch axis first and is cut with the samples. Close over data that belongs to the whole batch
    (the edges of a graph, a temperature): ``lambda x: model(x, edges)``.
    """

    __slots__ = ("args", "kwargs", "wrt")

    def __init__(self, /, *args: Any, wrt: str | Sequence[str] | None = None, **kwargs: Any) -> None:
        if _when_made:
            _when_made[:] = [prepare for prepare in _when_made if not prepare()]
        self.args = args
        self.kwargs = kwargs
        self.wrt = (wrt,) if isinstance(wrt, str) else None if wrt is None else tuple(wrt)

    def __repr__(self) -> str:
        shown = [*map(repr, self.args), *(f"{name}={value!r}" for name, value in self.kwargs.items())]
        return f"Inputs({', '.join(shown if self.wrt is None else [*shown, f'wrt={self.wrt!r}'])})"


def pack(ops: Backend, arrays: Sequence[Array]) -> Array:
    """Arrays (B, ...) as one: the array itself, or several as (B, components) in the widest of their dtypes."""
    if len(arrays) == 1:
        return arrays[0]
    dtypes = {ops.dtype(array) for array in arrays}
    dtype = dtypes.pop() if len(dtypes) == 1 else "float64" if "float64" in dtypes else "float32"
    return ops.concat([ops.reshape(ops.astype(array, dtype), (ops.shape(array)[0], -1)) for array in arrays], 1)


def unpack(ops: Backend, packed: Array, like: Sequence[Array]) -> list[Array]:
    """The inverse of `pack`: arrays of the shapes and dtypes of `like`."""
    if len(like) == 1:
        return [packed]
    arrays, start = [], 0
    for array in like:
        shape = ops.shape(array)
        size = math.prod(shape[1:])
        arrays.append(ops.astype(ops.reshape(packed[:, start : start + size], shape), ops.dtype(array)))
        start += size
    return arrays


@dataclass
class Arguments:
    """The input of a call, taken apart: its leaves, and which of them are differentiated."""

    ops: Backend
    leaves: tuple[Any, ...]
    rebuild: Rebuild
    several: bool
    """Whether the structure holds the arguments of :class:`Inputs`, by name, and is not the model's one argument."""
    wrt: tuple[int, ...]
    """The leaves that the Jacobian is with respect to."""
    batch: int
    names: tuple[str, ...] | None
    """The user's `wrt`."""

    @classmethod
    def of(cls, ops: Backend, call: str, x: Any) -> "Arguments":
        """`x` as the user passed it, checked.

        Raises:
            InputTypeError: it holds no array of the backend, or one of another library.
            InputError: the arrays disagree on the batch axis, the batch is empty, or `wrt` names no floating-point
                array.
        """
        if ops.is_array(x):
            shape = ops.shape(x)
            batch = shape[0] if shape and shape[0] else _batch_of(ops, call, {"": x})
            return cls(ops, (x,), alone, False, (0,) if ops.dtype(x) in FLOATING else (), batch, None)
        several = isinstance(x, Inputs)
        structure = {**dict(enumerate(x.args)), **x.kwargs} if several else x
        if several:
            structure = {str(name): value for name, value in structure.items()}
        pairs, rebuild = ops.flatten(structure)
        arrays = {path: leaf for path, leaf in pairs if ops.is_array(leaf)}
        if len(arrays) < sum(ops.is_array(leaf) for _, leaf in pairs):
            twice = next(path for index, (path, _) in enumerate(pairs) if path in [other for other, _ in pairs[:index]])
            raise InputError(f"{call}: two arrays of x have the path {twice!r}. Rename a key that has a dot in it.")
        _require_arrays(ops, call, x, pairs)
        batch = _batch_of(ops, call, arrays)
        names = x.wrt if several else None
        paths = [path for path, _ in pairs]
        floating = [path for path, leaf in arrays.items() if is_floating(ops.dtype(leaf))]
        wrt = floating if names is None else _named(ops, call, names, arrays, floating)
        leaves = tuple(leaf for _, leaf in pairs)
        return cls(ops, leaves, rebuild, several, tuple(map(paths.index, wrt)), batch, names)

    @property
    def like(self) -> Array:
        """An array on the device of the input: the first that is differentiated, else the first."""
        if self.wrt:
            return self.leaves[self.wrt[0]]
        return self.arrays[0]

    @property
    def arrays(self) -> list[Array]:
        """All arrays."""
        if self.rebuild is alone:
            return list(self.leaves)
        return [leaf for leaf in self.leaves if self.ops.is_array(leaf)]

    def packed(self) -> Array | None:
        """The differentiated leaves as one array, or None if there are none."""
        if len(self.wrt) == 1:
            return self.leaves[self.wrt[0]]
        return pack(self.ops, [self.leaves[index] for index in self.wrt]) if self.wrt else None

    def unpacked(self, packed: Array) -> list[Array]:
        """The differentiated leaves from one array like `packed()`."""
        return unpack(self.ops, packed, [self.leaves[index] for index in self.wrt])

    def as_passed(self, packed: Array | None) -> Any:
        """The input as the user passes it, with `packed` in place of the differentiated leaves."""
        leaves = list(self.leaves)
        if packed is not None:
            for index, array in zip(self.wrt, self.unpacked(packed), strict=True):
                leaves[index] = with_keras_mask(array, self.leaves[index])
        structure = self.rebuild(leaves)
        if not self.several:
            return structure
        positions = [name for name in structure if name.isdecimal()]
        keywords = {name: value for name, value in structure.items() if not name.isdecimal()}
        return Inputs(*(structure[str(index)] for index in range(len(positions))), wrt=self.names, **keywords)

    def passed_to(self, model: Any, packed: Array | None) -> Any:
        """The model's result for `packed` in place of the differentiated leaves."""
        if self.rebuild is alone:
            return model(self.leaves[0] if packed is None else with_keras_mask(packed, self.leaves[0]))
        x = self.as_passed(packed)
        return model(*x.args, **x.kwargs) if self.several else model(x)

    def prepared(self) -> "Arguments":
        """The arguments with every array ready to be differentiated; inside `Backend.enter`."""
        ops = self.ops
        if self.rebuild is alone:
            array = with_keras_mask(ops.prepared(self.leaves[0]), self.leaves[0])
            return self if array is self.leaves[0] else replace(self, leaves=(array,))
        leaves = (with_keras_mask(ops.prepared(leaf), leaf) if ops.is_array(leaf) else leaf for leaf in self.leaves)
        return replace(self, leaves=tuple(leaves))

    def take(self, indices: Array) -> "Arguments":
        """The samples at `indices`."""
        ops = self.ops

        def rows(array: Array) -> Array:
            return ops.take(array, indices)

        leaves = (with_keras_mask(rows(leaf), leaf, rows) if ops.is_array(leaf) else leaf for leaf in self.leaves)
        return replace(self, leaves=tuple(leaves), batch=ops.shape(indices)[0])


def _require_arrays(ops: Backend, call: str, x: Any, pairs: Sequence[tuple[str, Any]]) -> None:
    for path, leaf in pairs:
        foreign = not ops.is_array(leaf) and _is_like_an_array(leaf)
        if foreign or (path == "" and not ops.is_array(leaf)):
            where = f"x[{path!r}]" if path else "x"
            raise InputTypeError(
                f"{call}: {where} must be an array of the {ops.name} backend, got {type(leaf).__module__}."
                f"{type(leaf).__qualname__}{f' of {leaf.dtype}' if hasattr(leaf, 'dtype') else ''}. "
                f"{ops.conversion(leaf)}"
            )
    if not any(ops.is_array(leaf) for _, leaf in pairs):
        raise InputTypeError(
            f"{call}: x must be an array of the {ops.name} backend, or a structure of such arrays, got "
            f"{type(x).__module__}.{type(x).__qualname__} without any. Convert it, or import the backend of its "
            f"framework."
        )


def _is_like_an_array(value: Any) -> bool:
    """Whether a value is an array of another library, or holds samples one after another."""
    try:
        return (hasattr(value, "shape") and hasattr(value, "dtype")) or hasattr(value, "batch_sizes")
    except RuntimeError:  # a nested tensor has none, and says so
        return True


def _batch_of(ops: Backend, call: str, arrays: dict[str, Array]) -> int:
    shapes = {path: ops.shape(array) for path, array in arrays.items()}
    for path, shape in shapes.items():
        if not shape or shape[0] == 0:
            where = f"x[{path!r}]" if path else "x"
            raise InputError(
                f"{call}: {where} must have a batch axis with at least one sample, got shape {shape}."
                + (" Close over what belongs to the whole batch: lambda x: model(x, shared)." if path else "")
            )
    (first, shape), *others = shapes.items()
    for path, other in others:
        if other[0] != shape[0]:
            raise InputError(
                f"{call}: all arrays of x have the samples along their first axis, but x[{first!r}] has shape {shape} "
                f"and x[{path!r}] has shape {other}. Close over what belongs to the whole batch: "
                f"lambda x: model(x, shared)."
            )
    return shape[0]


def _named(
    ops: Backend, call: str, names: Sequence[str], arrays: dict[str, Array], floating: Sequence[str]
) -> list[str]:
    """The paths of the floating-point arrays that `wrt` names, each once, in the order of the arrays."""
    chosen: set[str] = set()
    for name in names:
        below = [path for path in arrays if path == name or path.startswith(f"{name}.")]
        differentiable = [path for path in below if path in floating]
        if not differentiable:
            came = (
                f"it holds {', '.join(f'{path} ({ops.dtype(arrays[path])})' for path in below)}"
                if below
                else (f"x has {', '.join(f'{path} ({ops.dtype(array)})' for path, array in arrays.items())}")
            )
            raise InputError(f"{call}: wrt={name!r} names no floating-point array: {came}.")
        chosen.update(differentiable)
    return [path for path in arrays if path in chosen]
