"""Describes the JAX backend without importing JAX."""

from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl

__all__ = ["gradreg_backends"]


@hookimpl
def gradreg_backends() -> list[BackendDescription]:
    """The description of the JAX backend."""
    return [
        BackendDescription(
            name="jax",
            title="JAX",
            factory="gradreg_jax.backend:JaxBackend",
            modules=("jax",),
            array_modules=("jax", "jaxlib"),
            model_modules=("flax", "equinox", "jax", "jaxlib"),
            capabilities=("batched_pullback", "host_checks", "traced_branch"),
            spec_version=1,
            install='pip install "gradreg[jax]"',
            harness="gradreg_jax.harness:JaxHarness",
            devices="gradreg_jax.devices:devices",
            trainer="gradreg_experiments.trainers.jax:JaxTrainer",
            validation="gradreg_jax.side:JaxSide",
            benchmark="gradreg_bench.jax_steps:JaxSteps",
            sweep="gradreg_sweep.jax:FRAMEWORK",
        )
    ]
