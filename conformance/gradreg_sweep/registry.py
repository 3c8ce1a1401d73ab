"""The frameworks that can be swept, imported on demand."""

from gradreg_core.errors import InputError
from gradreg_core.plugins.discovery import backends
from gradreg_core.plugins.dispatch import load_component
from gradreg_sweep.framework import Framework

__all__ = ["framework", "names"]


def names() -> list[str]:
    """The backends whose description names operations to sweep."""
    return [record.name for record in backends() if record.description is not None and record.description.sweep]


def framework(name: str) -> Framework:
    """The framework of the backend `name`.

    Raises:
        InputError: no backend of that name has operations to sweep.
        BackendImportError: it is not installed.
    """
    if name not in names():
        raise InputError(f"sweep: expected one of {', '.join(names())}, got {name!r}.")
    swept: Framework = load_component(name, "sweep")
    return swept
