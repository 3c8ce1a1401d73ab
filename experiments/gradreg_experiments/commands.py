"""Describes the commands of the experiments, without importing their requirements."""

from gradreg_core.plugins.hookspecs import CommandDescription, hookimpl

__all__ = ["gradreg_commands"]


@hookimpl
def gradreg_commands() -> list[CommandDescription]:
    """``gradreg demo`` and ``gradreg reproduce``."""
    return [
        CommandDescription(
            name="demo",
            target="gradreg_experiments.demo.command:demo",
            summary="Train on real data with and without gradient regularization.",
            install='pip install "gradreg[demo,torch]"',
        ),
        CommandDescription(
            name="reproduce",
            target="gradreg_experiments.paper.command:reproduce",
            summary="Train the paper's tables and figures again.",
            install='pip install "gradreg[reproduction,torch]"',
        ),
    ]
