"""A model's options as plain values, which Keras writes to its files."""

from typing import Any

import numpy as np

from gradreg_core.errors import InputError

__all__ = ["read", "written"]


def written(name: str, value: Any) -> Any:
    """An option as plain values.

    Raises:
        InputError: it is or holds a function.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if name == "outputs" and isinstance(value, list | tuple):
        return [written(name, part) for part in value]
    if callable(value):
        raise InputError(
            f"RegularizedModel: {name}= is a function or a model and cannot be saved. Save the weights alone, "
            f"save_weights(path) or ModelCheckpoint(save_weights_only=True), and load them into a model created "
            f"in the same way."
        )
    array = np.asarray(value)
    return {"array": array.tolist(), "dtype": array.dtype.name}


def read(value: Any) -> Any:
    """The option from the result of `written`."""
    return np.array(value["array"], value["dtype"]) if isinstance(value, dict) and "dtype" in value else value
