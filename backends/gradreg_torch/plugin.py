"""Describes the PyTorch backend without importing PyTorch."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl

__all__ = ["gradreg_backends"]


@hookimpl
def gradreg_backends() -> list[BackendDescription]:
    """The description of the PyTorch backend."""
    return [
        BackendDescription(
            name="torch",
            title="PyTorch",
            factory="gradreg_torch.calls:shared",
            modules=("torch",),
            array_modules=("torch",),
            model_modules=("torch",),
            capabilities=("host_checks", "named_activations"),
            spec_version=1,
            install='pip install "gradreg[torch]"',
            harness="gradreg_torch.harness:TorchHarness",
            devices="gradreg_torch.devices:devices",
            trainer="gradreg_experiments.trainers.torch:TorchTrainer",
            validation="gradreg_torch.side:TorchSide",
            benchmark="gradreg_bench.torch_steps:TorchSteps",
            sweep="gradreg_sweep.torch:FRAMEWORK",
        )
    ]
