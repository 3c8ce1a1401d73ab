"""The frameworks that can be swept, imported when they are asked for."""

from importlib import import_module

from gradreg_core.errors import BackendImportError, InputError
from gradreg_sweep.search import Framework

__all__ = ["NAMES", "framework"]

NAMES = ("torch", "jax", "tensorflow")


def framework(name: str) -> Framework:
    """The framework `name`.

    Raises:
        InputError: no such framework is known to the sweep.
        BackendImportError: it is not installed.
    """
    if name not in NAMES:
        raise InputError(f"sweep: expected one of {', '.join(NAMES)}, got {name!r}.")
    try:
        found: Framework = import_module(f"gradreg_sweep.{name}").FRAMEWORK
    except ImportError as error:
        raise BackendImportError(
            f'sweep: {name} cannot be imported: {error}. Install it with: pip install "gradreg[{name}]"'
        ) from error
    return found
