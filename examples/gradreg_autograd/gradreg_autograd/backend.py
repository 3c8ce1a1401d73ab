"""The primitives in autograd: NumPy arrays, and boxes around them during differentiation."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import autograd.numpy as anp
import numpy as np
from autograd.core import VJPNode, backward_pass
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.scipy.special import expit
from autograd.tracer import getval, isbox, trace

from gradreg_core.backend import Backend, Model, Pullback
from gradreg_core.errors import InputError

__all__ = ["AutogradBackend"]

Array = Any


class AutogradBackend(Backend):
    """See :class:`gradreg_core.backend.Backend`, which documents the methods."""

    name = "autograd"

    # --- types of arrays
    def is_array(self, value: Any) -> bool:
        return isinstance(value, np.ndarray | np.generic | ArrayBox)

    def asarray(self, value: Any, like: Array) -> Array:
        return value if self.is_array(value) else np.asarray(value)

    def shape(self, array: Array) -> tuple[int, ...]:
        return tuple(array.shape)

    def dtype(self, array: Array) -> str:
        return str(array.dtype)

    def values_if_free(self, array: Array) -> np.ndarray:
        return np.asarray(getval(array))

    # --- making and moving arrays
    def constant(self, values: Any, dtype: str, like: Array) -> Array:
        return np.array(values, dtype)

    def int32(self, value: Any, like: Array) -> Array:
        return np.asarray(value).astype("int32")

    def arange(self, stop: int, like: Array) -> Array:
        return np.arange(stop, dtype="int32")

    def astype(self, array: Array, dtype: str) -> Array:
        return array.astype(dtype)

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        return anp.reshape(array, tuple(shape))

    def moveaxis(self, array: Array, source: int, destination: int) -> Array:
        return anp.moveaxis(array, source, destination)

    def broadcast_to(self, array: Array, shape: Sequence[int]) -> Array:
        return array + np.zeros(tuple(shape), array.dtype)

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        return anp.concatenate(arrays, axis)

    def take(self, array: Array, indices: Array) -> Array:
        return array[indices]

    # --- arithmetic
    def bitwise_left_shift(self, array: Array, bits: Any) -> Array:
        return np.left_shift(array, bits)

    def bitwise_right_shift(self, array: Array, bits: Any) -> Array:
        return np.right_shift(array, bits)

    def where(self, condition: Array, if_true: Any, if_false: Any) -> Array:
        return anp.where(condition, if_true, if_false)

    def sum(self, array: Array, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
        return anp.sum(array, axis=axis, keepdims=keepdims, dtype=array.dtype)

    def sqrt(self, array: Array) -> Array:
        return anp.sqrt(array)

    def sign(self, array: Array) -> Array:
        return np.sign(getval(array))

    def argmax(self, array: Array) -> Array:
        return np.argmax(getval(array), axis=-1).astype("int32")

    def argsort(self, array: Array) -> Array:
        return np.argsort(getval(array), axis=-1, kind="stable").astype("int32")

    def cumulative_sum(self, array: Array) -> Array:
        return anp.cumsum(array, axis=-1)

    def softmax(self, array: Array) -> Array:
        exponentials = anp.exp(array - np.max(getval(array), axis=-1, keepdims=True))
        return exponentials / anp.sum(exponentials, axis=-1, keepdims=True)

    def log_softmax(self, array: Array) -> Array:
        shifted = array - np.max(getval(array), axis=-1, keepdims=True)
        return shifted - anp.log(anp.sum(anp.exp(shifted), axis=-1, keepdims=True))

    def sigmoid(self, array: Array) -> Array:
        return expit(array)

    def softplus(self, array: Array) -> Array:
        return anp.logaddexp(array, 0.0)

    def eigvalsh(self, array: Array) -> Array:
        return np.linalg.eigvalsh(getval(array))

    def matmul(self, left: Array, right: Array) -> Array:
        return anp.matmul(left, right)

    # --- differentiation
    def vjp(self, fn: Model, x: Array) -> tuple[Array, Pullback]:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Output seems independent of input")
            outputs, node = trace(VJPNode.new_root(), fn, x)

        def pullback(w: Array) -> Array:
            if node is None:
                raise InputError("x does not reach the outputs: the model does not depend on it differentiably.")
            return backward_pass(w, node).astype(x.dtype)  # some of autograd's derivatives are always float64

        return outputs, pullback

    def vjp_with_aux(self, fn: Callable[[Array], tuple[Array, Any]], x: Array) -> tuple[Array, Any, Pullback]:
        kept: list[Any] = []

        def outputs_alone(point: ArrayBox) -> Array:
            outputs, aux = fn(point)
            leaves, rebuild = self.flatten(aux)
            boxed = [isbox(leaf) and leaf._trace == point._trace for _, leaf in leaves]
            kept.append(rebuild([leaf._value if own else leaf for own, (_, leaf) in zip(boxed, leaves, strict=True)]))
            return outputs

        outputs, pullback = self.vjp(outputs_alone, x)
        return outputs, kept[-1], pullback

    def stop_gradient(self, array: Array) -> Array:
        return getval(array)
