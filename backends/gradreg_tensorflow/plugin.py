"""Describes the TensorFlow backend without importing TensorFlow."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl

__all__ = ["gradreg_backends"]


@hookimpl
def gradreg_backends() -> list[BackendDescription]:
    """The description of the TensorFlow backend."""
    return [
        BackendDescription(
            name="tensorflow",
            title="TensorFlow",
            factory="gradreg_tensorflow.backend:TensorFlowBackend",
            modules=("tensorflow",),
            array_modules=("tensorflow",),
            model_modules=("tensorflow", "keras"),
            capabilities=("host_checks", "named_activations", "traced_branch"),
            spec_version=1,
            install='pip install "gradreg[tensorflow]"',
            harness="gradreg_tensorflow.harness:TensorFlowHarness",
            devices="gradreg_tensorflow.devices:devices",
            trainer="gradreg_experiments.trainers.tensorflow:TensorFlowTrainer",
            validation="gradreg_tensorflow.side:TensorFlowSide",
            benchmark="gradreg_bench.tensorflow_steps:TensorFlowSteps",
            sweep="gradreg_sweep.tensorflow:FRAMEWORK",
        )
    ]
