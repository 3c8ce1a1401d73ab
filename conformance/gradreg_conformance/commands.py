"""Describes the command of the conformance kit, without importing hypothesis."""

from gradreg_core.plugins.hookspecs import CommandDescription, hookimpl

__all__ = ["gradreg_commands"]


@hookimpl
def gradreg_commands() -> list[CommandDescription]:
    """``gradreg conformance``."""
    return [
        CommandDescription(
            name="conformance",
            target="gradreg_conformance.command:conformance",
            summary="Test whether a backend computes the right penalties and gradients.",
            install='pip install "gradreg[conformance]"',
        )
    ]
