"""Describes the commands of the core: those that inspect the installation, and the search for a weight."""

from gradreg_core.plugins.hookspecs import CommandDescription, hookimpl

__all__ = ["gradreg_commands"]


@hookimpl
def gradreg_commands() -> list[CommandDescription]:
    """``gradreg backends``, ``gradreg doctor`` and ``gradreg tune``."""
    return [
        CommandDescription(
            name="backends",
            target="gradreg_core.cli.listing:backends",
            summary="List the backends, and why any of them cannot be used.",
            install="pip install gradreg",
        ),
        CommandDescription(
            name="doctor",
            target="gradreg_core.cli.doctor:doctor",
            summary="Import every framework and report what is wrong.",
            install="pip install gradreg",
        ),
        CommandDescription(
            name="tune",
            target="gradreg_core.tuning.command:tune",
            summary="Search for the weight of a regularizer by training a few times.",
            install="pip install gradreg",
        ),
    ]
