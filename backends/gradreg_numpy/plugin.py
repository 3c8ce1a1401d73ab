"""Describes the NumPy backend."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl

__all__ = ["gradreg_backends"]


@hookimpl
def gradreg_backends() -> list[BackendDescription]:
    """The description of the NumPy backend."""
    return [
        BackendDescription(
            name="numpy",
            title="NumPy",
            factory="gradreg_numpy.api:create",
            modules=("numpy",),
            array_modules=("numpy",),
            model_modules=("gradreg_numpy",),
            capabilities=("named_activations",),
            spec_version=1,
            install="pip install gradreg",
            harness="gradreg_numpy.harness:NumpyHarness",
        )
    ]
