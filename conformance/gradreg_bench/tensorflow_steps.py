"""Training steps in TensorFlow, inside tf.function."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from gradreg_bench.steps import Model, Steps, Total, network_arrays
from gradreg_bench.variants import Variant
from gradreg_core.portable import networks as nets
from gradreg_tensorflow.networks import apply

__all__ = ["TensorFlowSteps"]


def _tensor(value: Any) -> Any:
    """A NumPy array as a tensor, floats in float32; other values unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    return tf.constant(value, tf.float32 if value.dtype.kind == "f" else None)


class TensorFlowSteps(Steps):
    """Steps of a Keras model, or of a callable with `trainable_variables`. The mode "xla" is ``jit_compile=True``."""

    modes = ("function", "xla")

    def __init__(self, backend: str, model: Any, x: Any, y: Any, mode: str) -> None:
        super().__init__(backend, model, _tensor(x), _tensor(y), mode)
        self.variables = list(model.trainable_variables)

    @classmethod
    def of_network(cls, backend: str, network: nets.Network, batch: int, mode: str) -> "TensorFlowSteps":
        arrays, x, y = network_arrays(network, batch)
        return cls(backend, _NetworkModel(network, arrays), tf.constant(x), tf.constant(y), mode)

    def forward(self, x: Any) -> Any:
        return self.model(x)

    @property
    def eager_model(self) -> Model:
        return self.model  # type: ignore[no-any-return]

    def prepare(self, total: Total, variant: Variant) -> Callable[[int], Any]:
        def gradients(step: Any) -> Any:
            with tf.GradientTape() as tape:
                value = total(self.model, self.variables, self.x, step)
            return tape.gradient(value, self.variables)

        compiled = tf.function(gradients, autograph=False, jit_compile=self.mode == "xla")

        def run(number: int) -> list[np.ndarray]:
            return [tf.convert_to_tensor(g).numpy() for g in compiled(tf.constant(number)) if g is not None]

        return run

    def loss(self, z: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(self.y, z))

    def vjp(self, model: Model, x: Any, *, differentiable: bool = True) -> tuple[Any, Model]:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(x)
            z = model(x)
        return z, lambda w: tape.gradient(z, x, w)

    def normal(self, z: Any, step: Any) -> Any:
        return tf.random.normal(z.shape)

    def difference(self, z: Any) -> Any:
        return tf.nn.softmax(z) - tf.one_hot(self.y, z.shape[-1])

    def row(self, z: Any, index: int) -> Any:
        return tf.one_hot(tf.fill([z.shape[0]], index), z.shape[1])

    def sum(self, array: Any) -> Any:
        return tf.reduce_sum(array)

    def stop_gradient(self, array: Any) -> Any:
        return tf.stop_gradient(array)

    def _vmap_jacrev(self, model: Model, params: Any, x: Any, step: Any) -> Any:
        """TensorFlow's `batch_jacobian` starts from outputs, so the loss shares its forward pass."""
        with tf.GradientTape() as tape:
            tape.watch(x)
            z = model(x)
        return self.loss(z) + self._penalty(tape.batch_jacobian(z, x))


class _NetworkModel:
    """A portable network with TensorFlow's own max pooling."""

    def __init__(self, network: nets.Network, arrays: Mapping[str, np.ndarray]) -> None:
        self.network = network
        trained = network.weights()
        self.arrays = {path: (tf.Variable if path in trained else tf.constant)(value) for path, value in arrays.items()}
        self.trainable_variables = [self.arrays[path] for path in trained]

    def __call__(self, x: Any) -> Any:
        for index, layer in enumerate(self.network.layers):
            if isinstance(layer, nets.MaxPool):
                x = tf.nn.max_pool2d(x, layer.size, layer.size, "VALID")
                continue
            prefix = f"{index}."
            own = {f"0.{path[len(prefix) :]}": a for path, a in self.arrays.items() if path.startswith(prefix)}
            x = apply(nets.Network(tuple(x.shape[1:]), (layer,)), own, x)
        return x
