"""Describes the command of the sweep, without importing a framework."""

from gradreg_core.plugins.hookspecs import CommandDescription, hookimpl

__all__ = ["gradreg_commands"]


@hookimpl
def gradreg_commands() -> list[CommandDescription]:
    """``gradreg sweep``."""
    return [
        CommandDescription(
            name="sweep",
            target="gradreg_sweep.command:sweep",
            summary="Test a framework's operations for second derivatives that are wrong or missing.",
            install='pip install "gradreg[conformance]"',
        )
    ]
