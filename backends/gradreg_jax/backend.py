"""The primitives in JAX: pure functions, traced or not. A second derivative is reverse mode over jax.vjp."""

import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.random import threefry2x32_p
from jax.sharding import PartitionSpec

from gradreg_core.backend import Backend, Model, Pullback
from gradreg_jax.diagnose import diagnose, explain
from gradreg_jax.kinks import smoothed
from gradreg_jax.model import functional, parameters, refuse_batch_norm, repeatable, without_state_changes

__all__ = ["JaxBackend"]

Array = jax.Array
_HIGHEST = lax.Precision.HIGHEST
_FEW_WORDS = 1024
"""Random words up to which JAX's own Threefry primitive is the faster one."""
_FEW_ROWS = 16
"""Rows up to which a program that repeats the pullback is the faster one on the CPU."""


def _dtype(name: Any) -> Any:
    """The dtype of that name, or the 32-bit one where 64 bits are off."""
    return jax.dtypes.canonicalize_dtype(name)


class JaxBackend(Backend):
    """See :class:`gradreg_core.backend.Backend`, whose methods these are."""

    name = "jax"
    default_chunk: int | None = None

    def is_array(self, value: Any) -> bool:
        return isinstance(value, jax.Array | np.ndarray)

    def asarray(self, value: Any, like: Array) -> Array:
        if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value)):
            return jnp.asarray(value)
        return jnp.asarray(np.asarray(value))

    def shape(self, array: Array) -> tuple[int, ...]:
        return tuple(array.shape)

    def dtype(self, array: Array) -> str:
        return str(_dtype(array.dtype))

    def values_if_free(self, array: Array) -> np.ndarray | None:
        if not _is_readable(array):
            return None
        half = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
        return np.asarray(array, np.float32 if half else None)

    def constant(self, values: Any, dtype: str, like: Array) -> Array:
        return jnp.asarray(np.asarray(values, _dtype(dtype)))

    def int32(self, value: Any, like: Array) -> Array:
        return jnp.asarray(value).astype(jnp.int32)

    def arange(self, stop: int, like: Array) -> Array:
        # Adding a zero made from `like` marks the numbers as varying over the devices of a shard_map where it does.
        return jnp.arange(stop, dtype=jnp.int32) + lax.full_like(like, 0, jnp.int32, ())

    def astype(self, array: Array, dtype: str) -> Array:
        return array.astype(_dtype(dtype))

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        return jnp.reshape(array, tuple(shape))

    def moveaxis(self, array: Array, source: int, destination: int) -> Array:
        return jnp.moveaxis(array, source, destination)

    def broadcast_to(self, array: Array, shape: Sequence[int]) -> Array:
        return jnp.broadcast_to(array, tuple(shape))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return jnp.concatenate(arrays, axis)

    def take(self, array: Array, indices: Array) -> Array:
        spec = jax.typeof(array).sharding.spec
        if not spec or spec[0] is None:
            return array[indices]
        # The rows lie on explicit mesh axes, where JAX wants to be told where the result lies.
        axes = spec[0] if isinstance(spec[0], tuple) else (spec[0],)
        shards = math.prod(jax.typeof(array).sharding.mesh.shape[axis] for axis in axes)
        rows = spec[0] if indices.shape[0] % shards == 0 else None
        where = PartitionSpec(rows, *[None] * (indices.ndim - 1), *spec[1:])
        return array.at[indices].get(out_sharding=where)

    def bitwise_left_shift(self, array: Array, bits: Any) -> Array:
        return array << bits

    def bitwise_right_shift(self, array: Array, bits: Any) -> Array:
        return array >> bits

    def where(self, condition: Array, if_true: Any, if_false: Any) -> Array:
        return jnp.where(condition, if_true, if_false)

    def sum(self, array: Array, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
        return array.sum(axis, keepdims=keepdims, dtype=array.dtype)

    def sqrt(self, array: Array) -> Array:
        return jnp.sqrt(array)

    def sign(self, array: Array) -> Array:
        return jnp.sign(lax.stop_gradient(array))

    def argmax(self, array: Array) -> Array:
        return lax.argmax(array, array.ndim - 1, jnp.int32)

    def argsort(self, array: Array) -> Array:
        return jnp.argsort(array, -1, stable=True).astype(jnp.int32)

    def cumulative_sum(self, array: Array) -> Array:
        return jnp.cumsum(array, -1)

    def softmax(self, array: Array) -> Array:
        return jax.nn.softmax(array)

    def log_softmax(self, array: Array) -> Array:
        return jax.nn.log_softmax(array)

    def sigmoid(self, array: Array) -> Array:
        return jax.nn.sigmoid(array)

    def softplus(self, array: Array) -> Array:
        return jax.nn.softplus(array)

    def eigvalsh(self, array: Array) -> Array:
        return jnp.linalg.eigvalsh(array)

    def matmul(self, left: Array, right: Array) -> Array:
        return jnp.matmul(left, right, precision=_HIGHEST)

    def vjp(self, fn: Model, x: Array) -> tuple[Array, Pullback]:
        pure, keep = functional(fn)
        outputs, pull, changes = jax.vjp(pure, x, has_aux=True)
        keep(changes)

        def pullback(w: Array) -> Array:
            if jax.typeof(w) != jax.typeof(outputs):  # equal values on all devices, where the outputs differ
                w = w + jnp.zeros_like(outputs)
            return pull(w)[0]

        return outputs, pullback

    def jvp(self, fn: Model, x: Array, v: Array) -> tuple[Array, Array]:
        pure, keep = functional(fn)
        outputs, tangent, changes = jax.jvp(pure, (x,), (v,), has_aux=True)
        keep(changes)
        return outputs, tangent

    def call_twice(self, model: Any, x: Array, moved: Array) -> tuple[Array, Array]:
        pure, keep = functional(model)
        with suppress(jax.errors.ConcretizationTypeError):  # a model that looks at values may
            jax.eval_shape(pure, x)  # a hidden random state would draw anew in the second pass: this raises
        (outputs, changes), (other, _) = pure(x), pure(moved)
        keep(changes)
        return outputs, other

    def without_state_changes(self, model: Any) -> Model:
        return without_state_changes(model)

    def pull_rows(self, pullback: Pullback, rows: Array) -> Array:
        on_cpu = jax.default_backend() == "cpu"
        if len(rows) > 1 and on_cpu and _is_traced_program():
            # Rows that are pulled back in turn stay in the processor's caches, and a loop takes the memory of one.
            pullback(rows[0])  # makes the values that the engine keeps, see `cond`
            if not _convolves(jax.make_jaxpr(pullback)(rows[0]).jaxpr):
                return lax.map(pullback, rows)
        if len(rows) == 1 or (len(rows) <= _FEW_ROWS and on_cpu):
            return jnp.stack([pullback(row) for row in rows])
        return jax.vmap(pullback)(rows)

    def stop_gradient(self, array: Array) -> Array:
        return lax.stop_gradient(array)

    def cond(self, predicate: Array, branch: Callable[[], Array]) -> Array:
        # The engine keeps what several terms share, so the branch is called here first: a value that was made inside a
        # traced branch could not be used again outside of it. The compiler drops the rest of this call.
        value = branch()
        return lax.cond(predicate, branch, lambda: jnp.zeros_like(value))

    def static_int(self, value: Any) -> int | None:
        if isinstance(value, bool) or not _is_readable(value):
            return None
        try:
            return operator.index(value)
        except TypeError:
            return None

    def threefry2x32(self, key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
        """The same words; a few of them by JAX's own primitive.

        The primitive makes a smaller program, which compiles in two thirds of the time. On the CPU it is slow for many.
        """
        words = (*key, *counter)
        if math.prod(jnp.broadcast_shapes(*(word.shape for word in words))) > _FEW_WORDS:
            return super().threefry2x32(key, counter)
        zero = sum(word * 0 for word in words)  # brings all four to one shape and one layout over devices
        first, second = threefry2x32_p.bind(*(lax.bitcast_convert_type(word + zero, jnp.uint32) for word in words))
        # The primitive forgets over which devices of a shard_map its arguments vary; adding the zero again restores it.
        return lax.bitcast_convert_type(first, jnp.int32) + zero, lax.bitcast_convert_type(second, jnp.int32) + zero

    @contextmanager
    def enter(self, call: str, model: Any, x: Array, batch_norm: str) -> Iterator[Array]:
        if batch_norm != "allow":
            refuse_batch_norm(call, model, batch_norm)
        try:
            yield jnp.asarray(x)
        except Exception as error:
            explained = explain(call, error)
            if explained is None:
                raise
            raise explained from error

    def smoothed(self, model: Any, x: Array) -> AbstractContextManager[Any]:
        return nullcontext(smoothed(without_state_changes(model), jnp.asarray(x)))

    def repeatable(self, model: Any) -> AbstractContextManager[None]:
        return repeatable(model)

    def diagnose(self, calls: Any, model: Any, x: Array, y: Any, reg: Any, options: Any) -> Any:
        return diagnose(calls, model, x, y, reg, options)

    def parameters(self, model: Any) -> list[Array] | None:
        tree = parameters(model)
        return None if tree is None else self.tree_leaves(tree)

    def tree_leaves(self, params: Any) -> list[Array]:
        arrays = [leaf for leaf in jax.tree.leaves(params) if self.is_array(leaf)]
        return [array for array in arrays if jnp.issubdtype(array.dtype, jnp.inexact)]


def _is_traced_program() -> bool:
    """Whether a program is being recorded (jit, scan): run at once, each loop would be compiled anew."""
    return isinstance(lax.full((), 0), jax.core.Tracer)


def _convolves(jaxpr: Any) -> bool:
    """Whether there is one of XLA's convolutions, which take two to three times as long in a loop on the CPU."""
    options = [leaf for equation in jaxpr.eqns for leaf in jax.tree.leaves(list(equation.params.values()))]
    programs = [getattr(option, "jaxpr", option) for option in options]
    return any(equation.primitive.name == "conv_general_dilated" for equation in jaxpr.eqns) or any(
        _convolves(program) for program in programs if hasattr(program, "eqns")
    )


def _is_readable(value: Any) -> bool:
    """Whether the value can be read at no cost: no tracer, and on the CPU."""
    if not isinstance(value, jax.Array):
        return True
    if isinstance(value, jax.core.Tracer) or not value.is_fully_addressable:
        return False
    return all(device.platform == "cpu" for device in value.devices())
