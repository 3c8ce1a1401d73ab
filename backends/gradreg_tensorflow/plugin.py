"""Describes the TensorFlow backend, without importing TensorFlow."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl

__all__ = ["gradreg_backends"]


@hookimpl
def gradreg_backends() -> list[BackendDescription]:
    """The TensorFlow backend."""
    return [
        BackendDescription(
            name="tensorflow",
            factory="gradreg_tensorflow.backend:TensorFlowBackend",
            modules=("tensorflow",),
            array_modules=("tensorflow",),
            capabilities=("host_checks", "named_activations", "traced_branch"),
            spec_version=1,
            install='pip install "gradreg[tensorflow]"',
            harness="gradreg_tensorflow.harness:TensorFlowHarness",
        )
    ]
