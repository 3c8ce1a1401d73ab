"""Nested structures, including the wrappers in which TensorFlow and Keras keep lists, tuples and dicts."""

from typing import Any

from gradreg_tensorflow.model.variables import is_variable

__all__ = ["unwrapped"]

_WRAPPERS = ("tensorflow.", "keras.", "wrapt")


def unwrapped(structure: Any) -> Any:
    """The structure with plain lists, tuples and dicts in place of wrappers."""
    if is_variable(structure) or not isinstance(structure, list | tuple | dict) or hasattr(structure, "_fields"):
        return structure
    is_own = type(structure) not in (list, tuple, dict) and not type(structure).__module__.startswith(_WRAPPERS)
    if is_own:
        return structure
    if isinstance(structure, dict):
        return {key: unwrapped(value) for key, value in structure.items()}
    return (list if isinstance(structure, list) else tuple)(map(unwrapped, structure))
