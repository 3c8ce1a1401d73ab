"""The primitives in TensorFlow: nested gradient tapes, the same in eager mode, in tf.function and under XLA."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.autograph.core import config as autograph
from tensorflow.python.autograph.pyct import error_utils

from gradreg_core import errors
from gradreg_core.backend import Backend, Model, Pullback
from gradreg_core.errors import InputError
from gradreg_core.host_draws import HostPrimitives
from gradreg_tensorflow.activations import named_outputs
from gradreg_tensorflow.batch_norm import batch_norm_policy
from gradreg_tensorflow.diagnose import diagnose, explain, lacks_gradient
from gradreg_tensorflow.models import aside, both, parameters, repeatable
from gradreg_tensorflow.second_order import second_order_safe
from gradreg_tensorflow.smooth import smoothed

__all__ = ["TensorFlowBackend"]

Pair = tuple[tf.Tensor, tf.Tensor]

# AutoGraph is told two things: gradreg's own code needs no conversion, which takes seconds at the first trace (`vjp`
# converts the user's model), and gradreg's errors keep their types on the way out of converted code.
autograph.CONVERSION_RULES = (
    *(autograph.DoNotConvert(package) for package in ("gradreg_core", "gradreg_tensorflow")),
    *autograph.CONVERSION_RULES,
)
error_utils.KNOWN_STRING_CONSTRUCTOR_ERRORS = (
    *error_utils.KNOWN_STRING_CONSTRUCTOR_ERRORS,
    *(getattr(errors, name) for name in errors.__all__),
)


class TensorFlowBackend(Backend):
    """See :class:`gradreg_core.backend.Backend`, whose methods these are."""

    name = "tensorflow"
    capabilities = frozenset({"host_checks", "named_activations", "traced_branch"})
    default_chunk: int | None = 1

    def is_array(self, value: Any) -> bool:
        return isinstance(value, tf.Tensor | tf.Variable) or hasattr(value, "__tf_tensor__")

    def asarray(self, value: Any, like: tf.Tensor) -> tf.Tensor:
        return tf.convert_to_tensor(value)

    def shape(self, array: tf.Tensor) -> tuple[int, ...]:
        shape = tf.TensorShape(array.shape)
        if not shape.is_fully_defined():
            raise InputError(
                f"an array of shape {shape} has no static shape, which gradreg needs while a tf.function is traced. "
                f"Give a static batch size: dataset.batch(n, drop_remainder=True), or "
                f"input_signature=[tf.TensorSpec((n, ...), ...)]."
            )
        return tuple(shape.as_list())

    def dtype(self, array: tf.Tensor) -> str:
        return tf.as_dtype(array.dtype).name

    def values_if_free(self, array: tf.Tensor) -> np.ndarray | None:
        array = tf.convert_to_tensor(array)
        if not _is_eager(array) or "CPU" not in array.device:
            return None
        return (tf.cast(array, tf.float32) if array.dtype == tf.bfloat16 else array).numpy()

    def constant(self, values: Any, dtype: str, like: tf.Tensor) -> tf.Tensor:
        return tf.constant(values, dtype)

    def int32(self, value: Any, like: tf.Tensor) -> tf.Tensor:
        return tf.constant(value, tf.int32) if isinstance(value, int) else tf.cast(value, tf.int32)

    def arange(self, stop: int, like: tf.Tensor) -> tf.Tensor:
        return tf.range(stop, dtype=tf.int32)

    def astype(self, array: tf.Tensor, dtype: str) -> tf.Tensor:
        return tf.cast(array, dtype)

    def reshape(self, array: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        return tf.reshape(array, tuple(shape))

    def moveaxis(self, array: tf.Tensor, source: int, destination: int) -> tf.Tensor:
        axes = list(range(len(array.shape)))
        axis = axes.pop(source)
        axes.insert(destination % (len(axes) + 1), axis)
        return tf.transpose(array, axes)

    def broadcast_to(self, array: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
        return tf.broadcast_to(array, tuple(shape))

    def concat(self, arrays: Sequence[tf.Tensor], axis: int) -> tf.Tensor:
        return tf.concat(list(arrays), axis)

    def take(self, array: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
        # Along a second axis, because the gradient along the first is no tensor but tf.IndexedSlices.
        return tf.gather(array[tf.newaxis], indices, axis=1)[0]

    def bitwise_left_shift(self, array: tf.Tensor, bits: Any) -> tf.Tensor:
        return tf.bitwise.left_shift(array, tf.convert_to_tensor(bits, tf.int32))

    def bitwise_right_shift(self, array: tf.Tensor, bits: Any) -> tf.Tensor:
        return tf.bitwise.right_shift(array, tf.cast(bits, array.dtype))

    def threefry2x32(self, key: Pair, counter: Pair) -> Pair:
        """The generator's rounds: in NumPy where the tensors are at hand, else as one traced function of their shapes.

        See :func:`gradreg_core.random.threefry2x32`; hundreds of small operations cost more in dispatch than in work.
        """
        values = [self.values_if_free(each) for each in (*key, *counter)]
        if any(each is None for each in values):
            return _rounds(*key, *counter)
        words = HostPrimitives().threefry2x32((values[0], values[1]), (values[2], values[3]))
        return tf.constant(words[0]), tf.constant(words[1])

    def where(self, condition: tf.Tensor, if_true: Any, if_false: Any) -> tf.Tensor:
        dtype = next(each.dtype for each in (if_true, if_false) if tf.is_tensor(each))
        return tf.where(condition, *(tf.convert_to_tensor(each, dtype) for each in (if_true, if_false)))

    def sum(self, array: tf.Tensor, axis: int | tuple[int, ...], keepdims: bool = False) -> tf.Tensor:
        return tf.reduce_sum(array, axis, keepdims)

    def sqrt(self, array: tf.Tensor) -> tf.Tensor:
        return tf.sqrt(array)

    def sign(self, array: tf.Tensor) -> tf.Tensor:
        return tf.stop_gradient(tf.sign(array))

    def argmax(self, array: tf.Tensor) -> tf.Tensor:
        return tf.argmax(array, -1, output_type=tf.int32)

    def argsort(self, array: tf.Tensor) -> tf.Tensor:
        return tf.argsort(array, axis=-1, stable=True)

    def cumulative_sum(self, array: tf.Tensor) -> tf.Tensor:
        return tf.cumsum(array, axis=-1)

    def softmax(self, array: tf.Tensor) -> tf.Tensor:
        return tf.nn.softmax(array)

    def log_softmax(self, array: tf.Tensor) -> tf.Tensor:
        return tf.nn.log_softmax(array)

    def sigmoid(self, array: tf.Tensor) -> tf.Tensor:
        return tf.sigmoid(array)

    def softplus(self, array: tf.Tensor) -> tf.Tensor:
        return tf.math.softplus(array)

    def eigvalsh(self, array: tf.Tensor) -> tf.Tensor:
        return tf.linalg.eigvalsh(array)

    def matmul(self, left: tf.Tensor, right: tf.Tensor) -> tf.Tensor:
        return tf.matmul(left, right)

    def vjp(self, fn: Model, x: tf.Tensor) -> tuple[tf.Tensor, Pullback]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            outputs = _as_called(fn)(x)
        return outputs, _pullback(tape, outputs, x, "x")

    def call_twice(self, model: Any, x: tf.Tensor, moved: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """(model(x), model(moved)), Keras layers drawing the same in both; their state ends as after model(x)."""
        return both(_as_called(model), model, x, moved)

    def without_state_changes(self, model: Any) -> Model:
        """The model without what a pass changes in its state."""
        return aside(_as_called(model), model)

    def named_vjp(
        self, model: Any, x: tf.Tensor, names: Sequence[str | None]
    ) -> tuple[tf.Tensor, dict[str | None, Pullback]]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            if None in names:
                tape.watch(x)
            with named_outputs([name for name in names if name is not None], tape.watch) as kept:
                outputs = _as_called(model)(x)
        sources = {None: x} | kept
        return outputs, {
            name: _pullback(tape, outputs, sources[name], f"at={name!r}" if name else "x") for name in names
        }

    def pull_rows(self, pullback: Pullback, rows: tf.Tensor) -> tf.Tensor:
        return tf.stack([pullback(row) for row in tf.unstack(rows)])

    def stop_gradient(self, array: tf.Tensor) -> tf.Tensor:
        return tf.stop_gradient(array)

    def cond(self, predicate: tf.Tensor, branch: Callable[[], tf.Tensor]) -> tf.Tensor:
        # The engine keeps what several terms share, so the branch is called here first: a tensor made inside a traced
        # branch could not be used again outside of it. Nothing of this call is run: its result is not used.
        value = branch()
        return tf.cond(predicate, branch, lambda: tf.zeros(value.shape, value.dtype))

    def static_int(self, value: Any) -> int | None:
        if self.is_array(value):
            tensor = tf.convert_to_tensor(value)
            return int(tensor) if _is_eager(tensor) and tensor.dtype.is_integer and tensor.shape.rank == 0 else None
        return value.__index__() if hasattr(value, "__index__") and not isinstance(value, bool) else None

    @contextmanager
    def enter(self, call: str, model: Any, x: tf.Tensor, batch_norm: str) -> Iterator[tf.Tensor]:
        with second_order_safe(), batch_norm_policy(call, batch_norm):
            yield tf.convert_to_tensor(x)

    def require_gradient(self, call: str, model: Any, value: tf.Tensor) -> None:
        pass  # the tape that could tell is the caller's own

    def finish(self, value: tf.Tensor) -> tf.Tensor:
        return value

    @contextmanager
    def smoothed(self, model: Any, x: tf.Tensor) -> Iterator[Any]:
        """The model with its kinks rounded off, for the check's finite differences."""
        with smoothed():
            yield model

    def repeatable(self, model: Any) -> AbstractContextManager[None]:
        return repeatable(model)

    def diagnose(self, calls: Any, model: Any, x: tf.Tensor, y: Any, reg: Any, options: Any) -> Any:
        return diagnose(calls, model, x, y, reg, options)

    def parameters(self, model: Any) -> list[tf.Tensor] | None:
        return parameters(model)

    def tree_leaves(self, params: Any) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(each) for each in tf.nest.flatten(params)]


def _pullback(tape: tf.GradientTape, outputs: Any, x: tf.Tensor, name: str) -> Pullback:
    """The map w -> J^T w on what the tape recorded; an outer tape records it in turn."""

    def pullback(w: tf.Tensor) -> tf.Tensor:
        try:
            gradient = tape.gradient(outputs, x, output_gradients=w)
        except LookupError as error:
            if lacks_gradient(error):
                raise explain(error) from error
            raise
        if gradient is None:
            raise InputError(
                f"{name} does not reach the outputs: they do not depend on it differentiably. Look for "
                f"tf.stop_gradient, NumPy, tf.numpy_function or a cast to an integer type in the model."
            )
        return tf.convert_to_tensor(gradient)

    return pullback


@tf.function(autograph=False)
def _rounds(*words: tf.Tensor) -> Pair:
    return Backend.threefry2x32(TensorFlowBackend(), words[:2], words[2:])


def _is_eager(tensor: tf.Tensor) -> bool:
    return isinstance(tensor, tf.__internal__.EagerTensor)


def _as_called(fn: Model) -> Model:
    """`fn`, converted by AutoGraph if the code that called gradreg is being traced and converted."""
    status = tf.__internal__.autograph.control_status_ctx()
    if tf.executing_eagerly() or status.status.name != "ENABLED":
        return fn
    return tf.__internal__.autograph.tf_convert(fn, status)
