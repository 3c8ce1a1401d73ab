"""The reference as a backend: what `gradreg_core.load_backend("numpy")` gives."""

from types import SimpleNamespace

from gradreg_numpy.calls import check, loss, measure, penalty

__all__ = ["create"]


def create() -> SimpleNamespace:
    """An object with the calls that every backend has."""
    return SimpleNamespace(name="numpy", check=check, loss=loss, measure=measure, penalty=penalty)
