"""Compares a model with its port to another framework."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradreg_validation.agreement import TOLERANCE, Agreement, Row, validate

__all__ = ["TOLERANCE", "Agreement", "Row", "validate"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: ``gradreg --help`` imports this package, and needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.agreement"), name)
