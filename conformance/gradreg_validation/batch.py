"""The batch of a validation: one array, a nested structure of arrays, or several arguments, as named arrays."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.inputs import Inputs
from gradreg_core.structures import Rebuild, flatten

__all__ = ["Batch"]

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Batch:
    """The arrays of x by path, and how x is made of them again."""

    arrays: Arrays
    rebuild: Rebuild
    constants: Mapping[int, Any]
    """The leaves that are not arrays, by position."""
    several: bool
    """Whether x is :class:`gradreg_core.inputs.Inputs`."""
    wrt: tuple[str, ...] | None

    @classmethod
    def of(cls, x: Any) -> "Batch":
        """The batch as the user passed it.

        Raises:
            InputTypeError: it holds arrays of another kind than numbers and booleans, or none.
            InputError: an array has no batch axis, no sample, or another number of samples.
        """
        several = isinstance(x, Inputs)
        structure = {**{str(i): value for i, value in enumerate(x.args)}, **x.kwargs} if several else x
        if not several and not isinstance(x, Mapping) and not _holds_arrays(x):
            structure = np.asarray(x)
        leaves, rebuild = flatten(structure, _is_array)
        arrays = {path: np.asarray(leaf) for path, leaf in leaves if _is_array(leaf)}
        constants = {i: leaf for i, (_, leaf) in enumerate(leaves) if not _is_array(leaf)}
        if not arrays:
            raise InputTypeError("validate: x must be an array or a structure of arrays, got none.")
        for path, array in arrays.items():
            where = f"x[{path!r}]" if path else "x"
            if array.dtype.kind not in "fiub":
                raise InputTypeError(f"validate: {where} must hold numbers, got {array.dtype}.")
            if array.ndim == 0 or not len(array):
                raise InputError(
                    f"validate: {where} must have a batch axis with at least one sample, got shape {array.shape}."
                )
        sizes = {path: len(array) for path, array in arrays.items()}
        if len(set(sizes.values())) > 1:
            raise InputError(f"validate: all arrays of x have the samples along their first axis, got sizes {sizes}.")
        return cls(arrays, rebuild, constants, several, x.wrt if several else None)

    @property
    def floating(self) -> list[str]:
        """The paths that gradients are taken with respect to."""
        paths = [path for path, array in self.arrays.items() if array.dtype.kind == "f"]
        if self.wrt is None:
            return paths
        chosen = [path for path in paths if any(path == name or path.startswith(f"{name}.") for name in self.wrt)]
        if not chosen:
            raise InputError(f"validate: wrt={list(self.wrt)} names no floating-point array of x; it has {paths}.")
        return chosen

    def cast(self, dtype: str) -> Arrays:
        """The arrays, floating-point ones in `dtype`."""
        return {path: array.astype(dtype) if array.dtype.kind == "f" else array for path, array in self.arrays.items()}

    def structured(self, natives: Mapping[str, Any]) -> Any:
        """X again, of a framework's arrays by path."""
        given = iter([natives[path] for path in self.arrays])
        count = len(self.arrays) + len(self.constants)
        leaves = [self.constants[i] if i in self.constants else next(given) for i in range(count)]
        structure = self.rebuild(leaves)
        if not self.several:
            return structure
        positions = sorted((name for name in structure if name.isdecimal()), key=int)
        keywords = {name: value for name, value in structure.items() if not name.isdecimal()}
        return Inputs(*(structure[name] for name in positions), wrt=self.wrt, **keywords)


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _holds_arrays(x: Any) -> bool:
    if isinstance(x, tuple | list):
        return any(_is_array(part) or isinstance(part, Mapping) or _holds_arrays(part) for part in x)
    return False
