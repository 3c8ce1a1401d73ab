"""The primitives in TensorFlow: nested gradient tapes, the same in eager mode, in tf.function and under XLA."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from tensorflow.python.autograph.core import config as autograph
from tensorflow.python.autograph.pyct import error_utils

from gradreg_core import errors
from gradreg_core.backend import Apply, Backend, Model, ModelPass, Pair, Pullback
from gradreg_core.errors import InputError
from gradreg_core.objective import Objective, Scalar
from gradreg_core.passes import places_in, require_order
from gradreg_core.structures import Leaves, Rebuild
from gradreg_tensorflow.backward_functions import stage
from gradreg_tensorflow.diagnose import blame, explain, how_it_runs, lacks_gradient, require_safe_trace
from gradreg_tensorflow.kinks import smoothed
from gradreg_tensorflow.model.batch_norm import batch_norm_policy
from gradreg_tensorflow.model.copies import variables_copied
from gradreg_tensorflow.model.objects import holds_samples
from gradreg_tensorflow.model.places import watched_places
from gradreg_tensorflow.model.replay import repeatable, repeated_passes, without_state_changes
from gradreg_tensorflow.model.structures import unwrapped
from gradreg_tensorflow.model.variables import is_variable, parameters
from gradreg_tensorflow.model.writes import function_calls_seen, writes_of_call
from gradreg_tensorflow.objective import TensorFlowObjective
from gradreg_tensorflow.second_order import second_order_safe

__all__ = ["TensorFlowBackend"]

Words = tuple[tf.Tensor, tf.Tensor]

# Two settings of AutoGraph. It does not convert gradreg's own code, which would take seconds at the first trace (`vjp`
# converts the user's model). And gradreg's errors keep their types when they leave converted code.
autograph.CONVERSION_RULES = (
    *(autograph.DoNotConvert(package) for package in ("gradreg_core", "gradreg_tensorflow")),
    *autograph.CONVERSION_RULES,
)
error_utils.KNOWN_STRING_CONSTRUCTOR_ERRORS = (
    *error_utils.KNOWN_STRING_CONSTRUCTOR_ERRORS,
    *(getattr(errors, name) for name in errors.__all__),
)


class TensorFlowBackend(Backend):
    """See :class:`gradreg_core.backend.Backend`, which documents the methods."""

    name = "tensorflow"

    # These are TensorFlow's own functions.
    astype = staticmethod(tf.cast)
    broadcast_to = staticmethod(tf.broadcast_to)
    concat = staticmethod(tf.concat)
    eigvalsh = staticmethod(tf.linalg.eigvalsh)
    log_softmax = staticmethod(tf.nn.log_softmax)
    matmul = staticmethod(tf.matmul)
    reshape = staticmethod(tf.reshape)
    sigmoid = staticmethod(tf.sigmoid)
    softmax = staticmethod(tf.nn.softmax)
    softplus = staticmethod(tf.math.softplus)
    sqrt = staticmethod(tf.sqrt)
    stop_gradient = staticmethod(tf.stop_gradient)
    sum = staticmethod(tf.reduce_sum)

    def is_array(self, value: Any) -> bool:
        return isinstance(value, tf.Tensor | tf.Variable) or hasattr(value, "__tf_tensor__")

    def conversion(self, value: Any) -> str:
        if isinstance(value, tf.RaggedTensor):
            return "Pad it with x.to_tensor(), and mask the padding with position_weight=."
        return "Pass tf.sparse.to_dense(x)." if isinstance(value, tf.SparseTensor) else super().conversion(value)

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

    def static_int(self, value: Any) -> int | None:
        if not self.is_array(value):
            return super().static_int(value)
        tensor = tf.convert_to_tensor(value)
        return int(tensor) if _is_eager(tensor) and tensor.dtype.is_integer and tensor.shape.rank == 0 else None

    def constant(self, values: Any, dtype: str, like: tf.Tensor) -> tf.Tensor:
        return tf.constant(values, dtype)

    def int32(self, value: Any, like: tf.Tensor) -> tf.Tensor:
        return tf.constant(value, tf.int32) if isinstance(value, int) else tf.cast(value, tf.int32)

    def arange(self, stop: int, like: tf.Tensor) -> tf.Tensor:
        return tf.range(stop, dtype=tf.int32)

    def moveaxis(self, array: tf.Tensor, source: int, destination: int) -> tf.Tensor:
        axes = list(range(len(array.shape)))
        axis = axes.pop(source)
        axes.insert(destination % (len(axes) + 1), axis)
        return tf.transpose(array, axes)

    def take(self, array: tf.Tensor, indices: tf.Tensor) -> tf.Tensor:
        # Along a second axis, because the gradient along the first one is tf.IndexedSlices instead of a tensor.
        return tf.gather(array[tf.newaxis], indices, axis=1)[0]

    def bitwise_left_shift(self, array: tf.Tensor, bits: Any) -> tf.Tensor:
        return tf.bitwise.left_shift(array, tf.convert_to_tensor(bits, tf.int32))

    def bitwise_right_shift(self, array: tf.Tensor, bits: Any) -> tf.Tensor:
        return tf.bitwise.right_shift(array, tf.cast(bits, array.dtype))

    @tf.function(autograph=False)
    def threefry2x32(self, key: Words, counter: Words) -> Words:
        """The default as a function, traced once per set of shapes: that halves the time to trace a training step."""
        return super().threefry2x32(key, counter)

    def where(self, condition: tf.Tensor, if_true: Any, if_false: Any) -> tf.Tensor:
        dtype = if_true.dtype if tf.is_tensor(if_true) else if_false.dtype
        return tf.where(condition, tf.convert_to_tensor(if_true, dtype), tf.convert_to_tensor(if_false, dtype))

    def sign(self, array: tf.Tensor) -> tf.Tensor:
        return tf.stop_gradient(tf.sign(array))

    def argmax(self, array: tf.Tensor) -> tf.Tensor:
        return tf.argmax(array, -1, output_type=tf.int32)

    def argsort(self, array: tf.Tensor) -> tf.Tensor:
        return tf.argsort(array, axis=-1, stable=True)

    def cumulative_sum(self, array: tf.Tensor) -> tf.Tensor:
        return tf.cumsum(array, axis=-1)

    def vjp(self, fn: Model, x: tf.Tensor) -> tuple[tf.Tensor, Pullback]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            # A new tensor, because Keras marks a softmax's outputs with its logits, and Keras losses then use those.
            outputs = _converted(fn)(tf.identity(x))
        return outputs, _pullback(tape, outputs, x, "x", "the outputs")

    def model_vjp(self, model: Any, apply: Apply, x: tf.Tensor | None, pairs: Sequence[Pair]) -> ModelPass:
        model, names, ats = _converted(model), places_in(pairs), [at for _, at in pairs]
        if not pairs:
            return ModelPass(*apply(model, x), {}, {})
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            if None in ats:
                tape.watch(x)
            named = watched_places(names, [at for at in ats if at is not None], tape.watch)
            with named as places, _traces_judged():
                outputs, returned = apply(model, x)
        places.require_all(places.known)
        require_order(places, pairs)
        pullbacks = {
            (of, at): _single(
                _pullback(
                    tape,
                    outputs if of is None else places.values[of],
                    x if at is None else places.values[at],
                    "x" if at is None else f"at={at!r}",
                    "the outputs" if of is None else f"of={of!r}",
                )
            )
            for of, at in pairs
        }
        return ModelPass(outputs, returned, pullbacks, {name: places.values[name] for name in names})

    def model_jvp(self, model: Any, apply: Apply, x: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, Any, tf.Tensor]:
        with _traces_judged("input side"):
            return super().model_jvp(_converted(model), apply, x, v)

    def cond(self, predicate: tf.Tensor, branch: Callable[[], tf.Tensor]) -> tf.Tensor:
        # The engine shares arrays between terms, and a tensor made inside a traced branch cannot be used outside it.
        # So the branch is called here first, which makes those arrays. The result is unused, so it is never computed.
        value = branch()
        return tf.cond(predicate, branch, lambda: tf.zeros(value.shape, value.dtype))

    @contextmanager
    def enter(self, call: str, model: Any, arrays: Sequence[tf.Tensor], batch_norm: str) -> Iterator[None]:
        token = _call.set(call)
        try:
            with second_order_safe(), batch_norm_policy(call, batch_norm), writes_of_call():
                yield
        finally:
            _call.reset(token)

    def flatten(self, structure: Any) -> tuple[Leaves, Rebuild]:
        return super().flatten(unwrapped(structure))

    def prepared(self, array: Any) -> tf.Tensor:
        return tf.convert_to_tensor(array)

    def repeatable(self, model: Any) -> AbstractContextManager[None]:
        return repeatable(model)

    def call_twice(self, model: Any, apply: Apply, x: tf.Tensor, moved: tf.Tensor) -> tuple[tf.Tensor, Any, tf.Tensor]:
        fn = _converted(model)
        with repeated_passes(model) as passes:
            other, _ = passes.without_a_trace(lambda: apply(fn, moved))
            return (*apply(fn, x), other)

    def call_along(
        self, model: Any, apply: Apply, x: tf.Tensor, move: Callable[[tf.Tensor, Any, Pullback], tf.Tensor]
    ) -> tuple[tf.Tensor, Any, tf.Tensor]:
        fn, start = _converted(model), tf.stop_gradient(x)
        with repeated_passes(model) as passes:
            moved = move(*passes.without_a_trace(lambda: self.vjp_with_aux(lambda point: apply(fn, point), start)))
            other, _ = passes.without_a_trace(lambda: apply(fn, moved))
            return (*apply(fn, x), other)

    def without_state_changes(self, model: Any) -> Model:
        return without_state_changes(_converted(model), model)

    def is_parameter(self, value: Any) -> bool:
        return is_variable(value)

    def holds_samples(self, model: Any, batch: int) -> bool:
        return holds_samples(model, batch)

    @contextmanager
    def smoothed(self, model: Any) -> Iterator[Any]:
        with smoothed():
            yield model

    @contextmanager
    def copied(self, model: Any) -> Iterator[Any]:
        with variables_copied():
            yield model

    def objective(
        self, model: Any, fn: Scalar, reach: Scalar, x: tf.Tensor | None, data: Sequence[tf.Tensor]
    ) -> Objective:
        return TensorFlowObjective(model, fn, reach, x)

    def blame(self, error: Exception, model: Any, run: Callable[[Any], Any]) -> list[tuple[str, str]]:
        return blame(error)

    def how_it_runs(self, model: Any, arrays: Sequence[Any]) -> list[str]:
        return how_it_runs(model)

    def parameters(self, model: Any) -> list[tf.Tensor] | None:
        return parameters(model)

    def tree_leaves(self, params: Any) -> list[tf.Tensor]:
        return [tf.convert_to_tensor(leaf) for leaf in super().tree_leaves(params)]


_call: "ContextVar[str]" = ContextVar("gradreg_call", default="")
"""The name of the call that this thread is in."""


@contextmanager
def _traces_judged(passes: Literal["forward", "input side"] = "forward") -> Iterator[None]:
    """The context of a pass whose derivative is differentiated again; it checks functions traced before."""
    if _call.get() == "measure":
        yield
        return
    with function_calls_seen(require_safe_trace), stage(passes):
        yield


def _pullback(tape: tf.GradientTape, result: Any, source: tf.Tensor, source_name: str, result_name: str) -> Pullback:
    """The map w -> J^T w from the tape's recording. An outer tape records the map in turn."""

    def pullback(w: tf.Tensor) -> tf.Tensor:
        try:
            with nullcontext() if _call.get() == "measure" else stage("backward"):
                gradient = tape.gradient(result, source, output_gradients=w)
        except (LookupError, tf.errors.OpError) as error:
            if lacks_gradient(error):
                raise explain(error) from error
            raise
        if gradient is None:
            raise InputError(
                f"{source_name} does not reach {result_name}: there is no differentiable path between them. Look for "
                f"tf.stop_gradient, NumPy, tf.numpy_function or a cast to an integer type in the model."
            )
        gradient = tf.convert_to_tensor(gradient)
        if not gradient.shape.is_fully_defined():  # after tf.py_function
            gradient.set_shape(source.shape)
        return gradient

    return pullback


def _single(pullback: Pullback) -> Pullback:
    """The pullback, in float32 for a float32 w: a Keras model computes in float32 even if its input is float64.

    TensorFlow cannot add a float64 penalty to a float32 loss.
    """

    def pulled(w: tf.Tensor) -> tf.Tensor:
        gradient = pullback(w)
        return tf.cast(gradient, tf.float32) if (gradient.dtype, w.dtype) == (tf.float64, tf.float32) else gradient

    return pulled


def _is_eager(tensor: tf.Tensor) -> bool:
    return isinstance(tensor, tf.__internal__.EagerTensor)


def _converted(fn: Model) -> Model:
    """`fn`, converted by AutoGraph if the code that called gradreg is being traced and converted."""
    status = tf.__internal__.autograph.control_status_ctx()
    if tf.executing_eagerly() or status.status.name != "ENABLED":
        return fn
    return tf.__internal__.autograph.tf_convert(fn, status)
