"""The framework that Keras runs on in this process."""

from importlib import import_module
from typing import Any

import keras

from gradreg_core.errors import UnsupportedError

__all__ = ["Steps", "calls"]


def _required() -> str:
    name: str = keras.config.backend()
    if name not in ("tensorflow", "jax", "torch"):
        raise UnsupportedError(
            f"RegularizedModel: Keras runs on {name!r} in this process, which cannot train. Set the environment "
            f"variable KERAS_BACKEND to tensorflow, jax or torch before Keras is imported."
        )
    return name


_NAME = _required()
calls: Any = import_module(f"gradreg_{_NAME}.api")
"""gradreg's calls in this framework."""
Steps: Any = import_module(f"gradreg_keras.{_NAME}_steps").Steps
"""The training step in this framework, a base class of models."""
