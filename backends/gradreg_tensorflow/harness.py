"""How the conformance kit drives the TensorFlow backend."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gradreg_conformance.harness import Harness
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.portable import networks as nets
from gradreg_tensorflow.networks import apply

__all__ = ["TensorFlowHarness"]

Arrays = Mapping[str, tf.Tensor]
Function = Callable[[Arrays], tf.Tensor]


class TensorFlowHarness(Harness):
    """See :class:`gradreg_conformance.harness.Harness`, whose methods these are.

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
            kind = tf.as_dtype(dtype)
            # Half precision by way of TensorFlow's own rounding: NumPy has no bfloat16 of its own.
            return tf.cast(tf.constant(np.array(values)), kind)

    def numpy(self, array: tf.Tensor) -> np.ndarray:
        array = tf.convert_to_tensor(array)
        found: np.ndarray = (tf.cast(array, tf.float32) if array.dtype == tf.bfloat16 else array).numpy()
        return found

    def apply(self, network: nets.Network, arrays: Arrays, x: tf.Tensor) -> tf.Tensor:
        return apply(network, arrays, x)

    def named_model(self, network: nets.Network, arrays: Arrays) -> tuple[Callable[[tf.Tensor], tf.Tensor], list[str]]:
        """A function that calls a Keras layer for each layer of the network, and the Keras layers' names."""
        import keras

        class Layer(keras.layers.Layer):  # type: ignore[misc]
            """One layer of a portable network, with arrays that are not its own."""

            def __init__(self, index: int) -> None:
                super().__init__(name=f"portable_{index}", autocast=False)
                self.own = nets.Network(network.input_shape, network.layers[index : index + 1])
                self.prefix = f"{index}."

            def call(self, x: tf.Tensor) -> tf.Tensor:
                own = {f"0.{path.removeprefix(self.prefix)}": arrays[path] for path in arrays if self._has(path)}
                return apply(self.own, own, x)

            def _has(self, path: str) -> bool:
                return path.startswith(self.prefix)

        layers = [Layer(index) for index in range(len(network.layers))]

        def model(x: tf.Tensor) -> tf.Tensor:
            for layer in layers:
                x = layer(x)
            return x

        return model, [layer.name for layer in layers]

    def value(self, function: Function, arrays: Arrays, mode: str) -> tf.Tensor:
        return _in_mode(function, mode)(dict(arrays))

    def value_and_gradients(
        self, function: Function, arrays: Arrays, mode: str
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        def both(arrays: Arrays) -> Any:
            floats = {name: each for name, each in arrays.items() if each.dtype.is_floating}
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(floats)
                value = function(arrays)
            return value, tape.gradient(value, floats, unconnected_gradients="zero")

        value, gradients = _in_mode(both, mode)(dict(arrays))
        return value, gradients

    def compiled(self, function: Function, mode: str) -> tuple[Function, Callable[[], int]] | None:
        """`function` traced for many calls, and how often it has been traced."""
        if mode == "eager":
            return None
        run = _in_mode(function, mode)
        return lambda arrays: run(dict(arrays)), run.experimental_get_tracing_count


def _in_mode(function: Callable[[Arrays], Any], mode: str) -> Any:
    """`function` as it runs in `mode`."""
    if mode == "eager":
        return function
    return tf.function(function, autograph=False, jit_compile=mode == "xla")
