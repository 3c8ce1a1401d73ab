"""How the conformance kit drives the TensorFlow backend."""

from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context

from gradreg_conformance.harness import Harness, OwnModel
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.portable import networks as nets
from gradreg_tensorflow.networks import apply

__all__ = ["TensorFlowHarness"]

Arrays = Mapping[str, tf.Tensor]
Function = Callable[[Arrays], tf.Tensor]


class _Part(tf.Module):  # type: ignore[misc]
    """A part of a model that shares its matrix."""

    def __init__(self, matrix: tf.Variable) -> None:
        super().__init__()
        self.matrix = matrix


class _Own(tf.Module):  # type: ignore[misc]
    """The model of `TensorFlowHarness.own_model`."""

    def __init__(self, trained: tf.Tensor, frozen: tf.Tensor) -> None:
        super().__init__()
        self.matrix = tf.Variable(trained)
        self.part = _Part(self.matrix)
        self.frozen = tf.Variable(frozen, trainable=False)
        self.passes = tf.Variable(0, trainable=False)

    def __call__(self, x: tf.Tensor) -> tf.Tensor:
        self.passes.assign_add(1)
        z = x @ self.matrix @ self.part.matrix @ self.frozen
        return z * (0.5 * tf.nn.dropout(tf.ones_like(z), 0.5))


class TensorFlowHarness(Harness):
    """See :class:`gradreg_conformance.harness.Harness`, which documents the methods.

    Modes: "eager"; "function", inside tf.function; "xla", tf.function(jit_compile=True). Under XLA on a CPU TensorFlow
    2.21 writes past the end of arrays when it pads some float64 arrays (docs/tensorflow.md), so that mode is tested in
    float32.
    """

    modes = ("eager", "function", "xla")
    dtypes_of_mode: Mapping[str, tuple[str, ...]] = {"xla": ("float32",)}
    layers = nets.LAYERS
    dtypes = ("float64", "float32", "float16", "bfloat16")
    tolerance = 4.0
    """TensorFlow's tanh is off by up to 4.1 unit roundoffs in float64, where a correct rounding is off by 1."""

    def __init__(self) -> None:
        self.calls = load_backend("tensorflow")
        self.devices = ("cpu", "cuda") if tf.config.list_physical_devices("GPU") else ("cpu",)
        self.versions = {"tensorflow": tf.__version__}

    def array(self, values: np.ndarray, dtype: str, device: str) -> tf.Tensor:
        with tf.device({"cuda": "GPU"}.get(device, "CPU")):
            # TensorFlow rounds to half precision itself, because NumPy has no bfloat16.
            return tf.cast(tf.constant(np.array(values)), tf.as_dtype(dtype))

    def numpy(self, array: tf.Tensor) -> np.ndarray:
        array = tf.convert_to_tensor(array)
        values: np.ndarray = (tf.cast(array, tf.float32) if array.dtype == tf.bfloat16 else array).numpy()
        return values

    def apply(self, network: nets.Network, arrays: Arrays, x: tf.Tensor) -> tf.Tensor:
        return apply(network, arrays, x)

    def parameter(self, array: tf.Tensor) -> tf.Variable:
        return tf.Variable(array)

    def named_model(self, network: nets.Network, arrays: Arrays) -> tuple[Callable[[tf.Tensor], tf.Tensor], list[str]]:
        """A function that calls one Keras layer per layer of the network, and the Keras layers' names."""
        import keras

        def keras_layer(index: int) -> Any:
            own = nets.Network(network.input_shape, network.layers[index : index + 1])
            prefix = f"{index}."
            # In the layer's own network the layer has index 0.
            weights = {f"0.{path[len(prefix) :]}": arrays[path] for path in arrays if path.startswith(prefix)}
            return keras.layers.Lambda(lambda x: apply(own, weights, x), name=f"portable_{index}", autocast=False)

        layers = [keras_layer(index) for index in range(len(network.layers))]
        return lambda x: reduce(lambda hidden, layer: layer(hidden), layers, x), [layer.name for layer in layers]

    def value(self, function: Function, arrays: Arrays, mode: str) -> tf.Tensor:
        return _in_mode(function, mode)(dict(arrays))

    def value_and_gradients(
        self, function: Function, arrays: Arrays, mode: str
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        def both(arrays: Arrays) -> Any:
            floats = {name: array for name, array in arrays.items() if array.dtype.is_floating}
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(floats)
                value = function(arrays)
            return value, tape.gradient(value, floats, unconnected_gradients="zero")

        value, gradients = _in_mode(both, mode)(dict(arrays))
        return value, gradients

    def own_model(self, trained: tf.Tensor, frozen: tf.Tensor) -> OwnModel:
        """A tf.Module; the mask is dropout's."""
        model = _Own(trained, frozen)
        return OwnModel(model, lambda: int(model.passes))

    def compiled(self, function: Function, mode: str) -> tuple[Function, Callable[[], int]] | None:
        """`function` traced for many calls, and a count of its traces."""
        if mode == "eager":
            return None
        run = _in_mode(function, mode)
        return lambda arrays: run(dict(arrays)), run.experimental_get_tracing_count

    def release(self) -> None:
        context.context().clear_kernel_cache()


def _in_mode(function: Callable[[Arrays], Any], mode: str) -> Any:
    """`function` wrapped to run in `mode`."""
    if mode == "eager":
        return function
    return tf.function(function, autograph=False, jit_compile=mode == "xla")
