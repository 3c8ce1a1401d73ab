"""The structure of a batch as JSON, whose leaves are names of arrays, and the batch made of it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gradreg_core.errors import UnsupportedError
from gradreg_core.inputs import Inputs
from gradreg_validation.batch import Arrays, Batch

__all__ = ["filled", "skeleton"]


@dataclass(frozen=True)
class _Leaf:
    """The place of an array."""

    path: str


def skeleton(batch: Batch) -> Any:
    """The structure of a batch, for :func:`filled`.

    Raises:
        UnsupportedError: it holds a container or a value that JSON does not have.
    """
    return _encoded(batch.structured({path: _Leaf(path) for path in batch.arrays}))


def _encoded(value: Any) -> Any:
    if isinstance(value, _Leaf):
        return {"array": value.path}
    if isinstance(value, Inputs):
        keywords = [[name, _encoded(part)] for name, part in value.kwargs.items()]
        return {"inputs": [_encoded(part) for part in value.args], "keywords": keywords, "wrt": _listed(value.wrt)}
    if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
        return {"dict": [[key, _encoded(part)] for key, part in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encoded(part) for part in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise UnsupportedError(
        f"save_reference: x holds {type(value).__name__}, which a file cannot hold: give dicts, lists, tuples, arrays "
        f"and plain numbers, and convert them in the model, or by inputs=."
    )


def _listed(wrt: Any) -> Any:
    return wrt if wrt is None or isinstance(wrt, str) else list(wrt)


def filled(form: Any, arrays: Arrays) -> Any:
    """The structure with its arrays."""
    match form:
        case {"array": path}:
            return np.asarray(arrays[path])
        case {"inputs": args, "keywords": keywords, "wrt": wrt}:
            return Inputs(
                *(filled(part, arrays) for part in args),
                wrt=wrt,
                **{name: filled(part, arrays) for name, part in keywords},
            )
        case {"dict": items}:
            return {key: filled(part, arrays) for key, part in items}
        case {"list": parts}:
            return [filled(part, arrays) for part in parts]
        case {"tuple": parts}:
            return tuple(filled(part, arrays) for part in parts)
    return form["value"]
