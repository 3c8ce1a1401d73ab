"""Describes the autograd backend without importing autograd."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl

__all__ = ["gradreg_backends"]


@hookimpl
def gradreg_backends() -> list[BackendDescription]:
    """The description of the autograd backend."""
    return [
        BackendDescription(
            name="autograd",
            factory="gradreg_autograd.backend:AutogradBackend",
            modules=("autograd", "scipy"),
            array_modules=("autograd",),
            capabilities=("host_checks",),
            spec_version=1,
            install="pip install gradreg-autograd",
            harness="gradreg_autograd.harness:AutogradHarness",
        )
    ]
