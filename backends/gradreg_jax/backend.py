"""The primitives in JAX: pure functions, traced or not; a second derivative is reverse mode over jax.vjp."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from gradreg_core.backend import Model, Pullback
from gradreg_core.errors import UnsupportedError
from jax import lax
from jax.extend.random import threefry2x32_p

__all__ = ["JaxBackend"]

Array = jax.Array
_HIGHEST = lax.Precision.HIGHEST


def _dtype(name: Any) -> Any:
    """The dtype of that name, or the 32-bit one where 64 bits are off."""
    return jax.dtypes.canonicalize_dtype(name)


class JaxBackend:
    """See :class:`gradreg_core.backend.Backend`, whose methods these are."""

    name = "jax"
    capabilities = frozenset({"host_checks", "traced_branch", "batched_pullback"})
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

    def host(self, array: Array) -> np.ndarray | None:
        if isinstance(array, jax.core.Tracer) or not _on_cpu(array):
            return None
        values = np.asarray(array)
        return values.astype(np.float32) if jnp.issubdtype(values.dtype, jnp.floating) and values.itemsize < 4 else values

    def constant(self, values: Any, dtype: str, like: Array) -> Array:
        return jnp.asarray(values, _dtype(dtype))

    def int32(self, value: Any, like: Array) -> Array:
        return jnp.asarray(value).astype(jnp.int32)

    def arange(self, stop: int, like: Array) -> Array:
        return jnp.arange(stop, dtype=jnp.int32)

    def astype(self, array: Array, dtype: str) -> Array:
        return array.astype(_dtype(dtype))

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        return jnp.reshape(array, tuple(shape))

    def moveaxis(self, array: Array, source: int, destination: int) -> Array:
        return jnp.moveaxis(array, source, destination)

    def broadcast(self, array: Array, shape: Sequence[int]) -> Array:
        return jnp.broadcast_to(array, tuple(shape))

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return jnp.concatenate(arrays, axis)

    def take(self, array: Array, indices: Array) -> Array:
        return array[indices]

    def left_shift(self, array: Array, bits: Any) -> Array:
        return array << bits

    def right_shift(self, array: Array, bits: Any) -> Array:
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

    def cumsum(self, array: Array) -> Array:
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
        outputs, pull = jax.vjp(fn, x)
        return outputs, lambda w: pull(w)[0]

    def named_vjp(self, model: Any, x: Array, names: Sequence[str | None]) -> Any:
        raise UnsupportedError("the jax backend has no names for activations.")

    def pull_rows(self, pullback: Pullback, rows: Array) -> Array:
        return jax.vmap(pullback)(rows)

    def stop_gradient(self, array: Array) -> Array:
        return lax.stop_gradient(array)

    def cond(self, predicate: Array, branch: Callable[[], Array]) -> Array:
        value = jax.eval_shape(branch)
        return lax.cond(predicate, branch, lambda: jnp.zeros(value.shape, value.dtype))

    def static_int(self, value: Any) -> int | None:
        if isinstance(value, jax.Array) and (isinstance(value, jax.core.Tracer) or not _on_cpu(value)):
            return None
        return value.__index__() if hasattr(value, "__index__") and not isinstance(value, bool) else None

    def threefry2x32(self, key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[Array, Array]:
        """The words of :func:`gradreg_core.random.threefry2x32` by JAX's own primitive."""
        shape = jnp.broadcast_shapes(*(each.shape for each in (*key, *counter)))
        words = [lax.bitcast_convert_type(jnp.broadcast_to(each, shape), jnp.uint32) for each in (*key, *counter)]
        first, second = threefry2x32_p.bind(*words)
        return lax.bitcast_convert_type(first, jnp.int32), lax.bitcast_convert_type(second, jnp.int32)

    def enter(self, call: str, model: Any, x: Array, batch_norm: str) -> AbstractContextManager[Array]:
        return nullcontext(jnp.asarray(x))

    def require_gradient(self, call: str, model: Any, value: Array) -> None:
        pass

    def leave(self, value: Array) -> Array:
        return value

    def repeatable(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def diagnose(self, frontend: Any, model: Any, x: Array, y: Any, reg: Any, options: Any) -> Any:
        return [], False

    def parameters(self, model: Any) -> list[Array] | None:
        return None

    def leaves(self, params: Any) -> list[Array]:
        return jax.tree.leaves(params)


def _on_cpu(array: Array) -> bool:
    if isinstance(array, np.ndarray):
        return True
    return array.is_fully_addressable and all(each.platform == "cpu" for each in array.devices())
