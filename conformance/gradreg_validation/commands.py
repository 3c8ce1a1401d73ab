"""Describes the commands of the validation, without importing a framework."""

from gradreg_core.plugins.hookspecs import CommandDescription, hookimpl

__all__ = ["gradreg_commands"]


@hookimpl
def gradreg_commands() -> list[CommandDescription]:
    """``gradreg validate`` and ``gradreg check``."""
    return [
        CommandDescription(
            name="validate",
            target="gradreg_validation.command:validate_command",
            summary="Compare a model with its port to another framework.",
            install="pip install gradreg",
        ),
        CommandDescription(
            name="check",
            target="gradreg_validation.check_command:check_command",
            summary="Look whether a model can be trained with a regularizer.",
            install="pip install gradreg",
        ),
    ]
