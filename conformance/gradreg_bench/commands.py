"""Describes the command of the benchmarks, without importing a framework."""

from gradreg_core.plugins.hookspecs import CommandDescription, hookimpl

__all__ = ["gradreg_commands"]


@hookimpl
def gradreg_commands() -> list[CommandDescription]:
    """``gradreg bench``."""
    return [
        CommandDescription(
            name="bench",
            target="gradreg_bench.command:bench",
            summary="Measure the cost of each regularizer beside a plain step.",
            install='pip install "gradreg[bench,torch]"',
        )
    ]
