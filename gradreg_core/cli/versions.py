"""Versions of installed modules."""

from collections.abc import Mapping
from functools import cache
from importlib import metadata

__all__ = ["module_version"]


def module_version(module: str) -> str | None:
    """The version of the distribution that provides `module`, without importing it; None if there is none."""
    version = _version(module)
    if version is None:
        version = next(filter(None, map(_version, _providers().get(module, ()))), None)
    return version


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


@cache
def _providers() -> Mapping[str, list[str]]:
    return metadata.packages_distributions()
