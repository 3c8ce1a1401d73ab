"""Compares a model with its port to another framework."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradreg_validation.agreement import TOLERANCE, Agreement, Row, save_reference, validate
    from gradreg_validation.proposal import Proposal, propose

__all__ = ["TOLERANCE", "Agreement", "Proposal", "Row", "propose", "save_reference", "validate"]


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: ``gradreg --help`` imports this package, and needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = "proposal" if name.lower().startswith("propos") else "agreement"
    return getattr(import_module(f"{__name__}.{home}"), name)
