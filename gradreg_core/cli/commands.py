"""Describes the commands that look after the installation."""

from gradreg_core.plugins.hookspecs import CommandDescription, hookimpl

__all__ = ["gradreg_commands"]


@hookimpl
def gradreg_commands() -> list[CommandDescription]:
    """``gradreg backends`` and ``gradreg doctor``."""
    return [
        CommandDescription(
            name="backends",
            target="gradreg_core.cli.listing:backends",
            summary="List the backends, and why those that cannot be used cannot.",
            install="pip install gradreg",
        ),
        CommandDescription(
            name="doctor",
            target="gradreg_core.cli.doctor:doctor",
            summary="Import every framework and report what is wrong.",
            install="pip install gradreg",
        ),
    ]
