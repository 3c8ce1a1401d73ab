"""How the conformance kit drives the JAX backend."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cache
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from gradreg_conformance.harness import Harness, OwnModel
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.portable import networks as nets
from gradreg_jax.networks import apply
from gradreg_jax.versions import enable_x64

__all__ = ["JaxHarness"]

Arrays = Mapping[str, jax.Array]
Function = Callable[[Arrays], jax.Array]

_UNOPTIMISED = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_parallel_codegen_split_count": 1,
    "xla_cpu_use_fusion_emitters": False,
    "xla_llvm_disable_expensive_passes": True,
}
"""Options that make XLA compile a small program in a fifth of the time. Compiling takes most of the time."""


class JaxHarness(Harness):
    """See :class:`gradreg_conformance.harness.Harness`, which documents the methods. All run with 64-bit types on.

    Modes: "unoptimised", jax.jit without most of XLA's optimisations, which compiles fast; "jit"; "eager"; "vmap", as
    one of a batch of functions; "scan", as the body of a loop; and "sharded", if there are several devices
    (``JAX_NUM_CPU_DEVICES=2`` in the environment creates two): jit over a batch that is split over them.
    """

    layers = nets.LAYERS
    dtypes = ("float64", "float32", "float16", "bfloat16")
    tolerance = 4.0
    """XLA's tanh in float64 is off by up to 4.3 unit roundoffs, where a correct rounding is off by 1."""

    def __init__(self) -> None:
        self.calls = load_backend("jax")
        platforms = [device.platform for device in jax.devices()]
        self.devices = tuple(dict.fromkeys(_NAMES.get(platform, platform) for platform in platforms))
        self.devices += ("cpu",) if "cpu" not in self.devices else ()
        self.modes = ("unoptimised", "jit", "eager", "vmap", "scan", *(("sharded",) if jax.device_count() > 1 else ()))
        self.versions = {name: version(name) for name in ("jax", "jaxlib")}

    def session(self) -> AbstractContextManager[Any]:
        """A context with 64-bit types on."""
        return enable_x64()

    def array(self, values: np.ndarray, dtype: str, device: str) -> jax.Array:
        with self.session():
            array = jnp.asarray(np.array(values, jnp.dtype(dtype)))
            # An array that is put on a device stays there; one on the default device moves to the others.
            return array if device == self.devices[0] else jax.device_put(array, _device(device))

    def numpy(self, array: jax.Array) -> np.ndarray:
        values = np.asarray(array)
        return values.astype(np.float32) if values.dtype == jnp.bfloat16 else values

    def apply(self, network: nets.Network, arrays: Arrays, x: jax.Array) -> jax.Array:
        return apply(network, arrays, x)

    def value(self, function: Function, arrays: Arrays, mode: str) -> jax.Array:
        with self.session():
            value: jax.Array = _in_mode(function, mode)(_placed(arrays, mode))
            return value

    def value_and_gradients(self, function: Function, arrays: Arrays, mode: str) -> tuple[jax.Array, dict[str, Any]]:
        def both(arrays: Arrays) -> Any:
            floats = {name: array for name, array in arrays.items() if jnp.issubdtype(array.dtype, jnp.floating)}
            return jax.value_and_grad(lambda floats: function({**arrays, **floats}))(floats)

        with self.session():
            value, gradients = _in_mode(both, mode)(_placed(arrays, mode))
            return value, gradients

    def own_model(self, trained: jax.Array, frozen: jax.Array) -> OwnModel | None:
        """A module of NNX, if Flax is installed."""
        try:
            from flax import nnx
        except ImportError:
            return None

        class Part(nnx.Module):  # type: ignore[misc]
            def __init__(self, matrix: Any) -> None:
                self.matrix = matrix

        class Own(nnx.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                self.matrix, self.frozen = nnx.Param(trained), nnx.Variable(frozen)
                self.part, self.passes = Part(self.matrix), nnx.BatchStat(jnp.array(0))
                self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

            def __call__(self, x: jax.Array) -> jax.Array:
                self.passes[...] = self.passes[...] + 1
                z = x @ self.matrix[...] @ self.part.matrix[...] @ self.frozen[...]
                return z * (0.5 * self.dropout(jnp.ones_like(z)))

        model = Own()
        return OwnModel(model, lambda: int(model.passes[...]))

    def compiled(self, function: Function, mode: str) -> tuple[Function, Callable[[], int]] | None:
        """`function` compiled for many calls, and a count of its compilations."""
        if mode == "eager":
            return None
        run = _in_mode(function, mode)

        def call(arrays: Arrays) -> jax.Array:
            with self.session():
                value: jax.Array = run(_placed(arrays, mode))
                return value

        return call, run._cache_size

    def release(self) -> None:
        jax.clear_caches()


_NAMES = {"gpu": "cuda"}
_PLATFORMS = {"cuda": "gpu"}


def _device(name: str) -> Any:
    return jax.devices(_PLATFORMS.get(name, name))[0]


def _placed(arrays: Arrays, mode: str) -> Arrays:
    """In mode "sharded", shard x and y over all devices if these divide the batch; replicate all else."""
    if mode != "sharded":
        return arrays
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def put(name: str, array: jax.Array) -> jax.Array:
        split = name in ("x", "y") and array.ndim > 0 and array.shape[0] % jax.device_count() == 0
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec("data") if split else PartitionSpec()))

    return {name: put(name, array) for name, array in arrays.items()}


def _in_mode(function: Callable[[Arrays], Any], mode: str) -> Any:
    """`function` wrapped to run in `mode`."""
    if mode == "eager":
        return function
    if mode in ("jit", "sharded"):
        return jax.jit(function)
    changed = {"unoptimised": function, "vmap": _batched(function), "scan": _looped(function)}[mode]
    return jax.jit(changed, compiler_options=_options())


def _first(results: Any) -> Any:
    return jax.tree.map(lambda stacked: stacked[0], results)


def _batched(function: Callable[[Arrays], Any]) -> Callable[[Arrays], Any]:
    """The first result of a batch of two equal sets of arrays."""

    def run(arrays: Arrays) -> Any:
        return _first(jax.vmap(function)({name: jnp.stack([array, array]) for name, array in arrays.items()}))

    return run


def _looped(function: Callable[[Arrays], Any]) -> Callable[[Arrays], Any]:
    """The result of the only iteration of a loop."""

    def run(arrays: Arrays) -> Any:
        once = {name: array[None] for name, array in arrays.items()}
        return _first(jax.lax.scan(lambda carry, arrays: (carry, function(arrays)), (), once)[1])

    return run


@cache
def _options() -> dict[str, Any]:
    """`_UNOPTIMISED`, if this XLA supports them."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=_UNOPTIMISED)(np.float32(1))
    except jax.errors.JaxRuntimeError:
        return {}
    return _UNOPTIMISED
