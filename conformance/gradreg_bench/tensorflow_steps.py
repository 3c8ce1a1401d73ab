"""Training steps in TensorFlow inside tf.function: the loss and the gradients of all variables, no optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

import gradreg_tensorflow as gradreg
from gradreg_bench.networks import GroupNorm
from gradreg_bench.variants import Variant
from gradreg_core.errors import UnsupportedError
from gradreg_core.portable import networks as nets
from gradreg_numpy.networks import initialize
from gradreg_tensorflow.networks import apply

__all__ = ["TensorFlowSteps"]

_WEIGHT, _DIFFERENCE = 0.01, 0.01


class TensorFlowSteps:
    """Steps of one model on one batch.

    Args:
        model: a Keras model, or another callable with `trainable_variables`.
        x: inputs.
        y: labels.
        mode: "function", or "xla" (``jit_compile=True``).
    """

    def __init__(self, model: Any, x: Any, y: Any, mode: str) -> None:
        self.model, self.x, self.y, self.mode = model, x, y, mode
        self.variables = list(model.trainable_variables)

    @classmethod
    def of_network(cls, network: nets.Network, batch: int, mode: str) -> "TensorFlowSteps":
        """A network described in :mod:`gradreg_bench.networks`."""
        random = np.random.default_rng(0)
        x = tf.constant(random.normal(size=(batch, *network.input_shape)), tf.float32)
        y = tf.constant(random.integers(0, network.output_shape[-1], batch))
        return cls(_Model(network), x, y, mode)

    @property
    def outputs(self) -> int:
        """m, the number of outputs of a sample."""
        return int(tf.size(self.model(self.x[:1])))

    def first_share(self) -> float | None:
        """Not known of a function."""
        return None

    def step(self, variant: Variant) -> Callable[[int], None]:
        """The step as a call.

        Raises:
            UnsupportedError: the variant is not written for TensorFlow.
        """
        if variant.reg is None:
            total = getattr(self, "_" + variant.name.replace(" ", "_").replace("(", "_").replace(")", ""), None)
            if total is None:
                raise UnsupportedError("not written for TensorFlow")
        else:
            total = self._regularized(variant)

        def gradients(step: Any) -> Any:
            with tf.GradientTape() as tape:
                value = total(step)
            return tape.gradient(value, self.variables)

        compiled = tf.function(gradients, autograph=False, jit_compile=self.mode == "xla")

        def run(number: int) -> None:
            for each in compiled(tf.constant(number)):
                if each is not None:
                    tf.convert_to_tensor(each).numpy()

        return run

    def _regularized(self, variant: Variant) -> Callable[[Any], Any]:
        options = {"params": self.variables, "batch_norm": "allow"}
        return lambda step: gradreg.loss(self.model, self.x, self.y, variant.reg, step=step, **options)[0]

    def _loss(self, z: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(self.y, z))

    def _plain(self, step: Any) -> Any:
        return self._loss(self.model(self.x))

    def _separate_forward(self, step: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(self.x)
            z = self.model(self.x)
        gradient = tape.gradient(z, self.x, tf.random.normal(z.shape))
        return self._plain(step) + _WEIGHT * tf.reduce_sum(gradient**2) / len(self.x)

    def _projection_loop(self, step: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(self.x)
            z = self.model(self.x)
        total = self._loss(z)
        for index in range(z.shape[1]):
            v = tf.one_hot(tf.fill([z.shape[0]], index), z.shape[1])
            total += _WEIGHT * tf.reduce_sum(tape.gradient(z, self.x, v) ** 2) / len(self.x)
        return total

    def _vmap_jacrev(self, step: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(self.x)
            z = self.model(self.x)
        jacobian = tape.batch_jacobian(z, self.x)
        return self._loss(z) + _WEIGHT * tf.reduce_sum(jacobian**2) / len(self.x)

    def _gradient_difference(self, step: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(self.x)
            z = self.model(self.x)
        w = tf.random.normal(z.shape)
        gradient = tf.stop_gradient(tape.gradient(z, self.x, w))
        moved = self.model(self.x + _DIFFERENCE * gradient)
        return self._loss(z) + 2 * _WEIGHT / _DIFFERENCE * tf.reduce_sum((moved - z) * w) / len(self.x)


class _Model:
    def __init__(self, network: nets.Network) -> None:
        self.network = network
        trained = network.weights()
        self.arrays = {
            path: (tf.Variable if path in trained else tf.constant)(np.float32(value))
            for path, value in initialize(network, 0).items()
        }
        self.trainable_variables = [self.arrays[path] for path in trained]

    def __call__(self, x: Any) -> Any:
        return _run(self.network.layers, "", self.arrays, x)


def _run(layers: tuple[nets.Layer, ...], prefix: str, params: Mapping[str, Any], x: Any) -> Any:
    for index, layer in enumerate(layers):
        path = f"{prefix}{index}"
        if isinstance(layer, nets.Residual):
            x = x + _run(layer.layers, f"{path}.", params, x)
        elif isinstance(layer, GroupNorm):
            x = _group_norm(layer, params[f"{path}.weight"], params[f"{path}.bias"], x)
        elif isinstance(layer, nets.MaxPool):
            x = tf.nn.max_pool2d(x, layer.size, layer.size, "VALID")
        else:
            own = {f"0{name[len(path) :]}": value for name, value in params.items() if name.startswith(f"{path}.")}
            x = apply(nets.Network(tuple(x.shape[1:]), (layer,)), own, x)
    return x


def _group_norm(layer: GroupNorm, weight: Any, bias: Any, x: Any) -> Any:
    batch, height, width, channels = x.shape
    parts = tf.reshape(x, (batch, height, width, layer.groups, channels // layer.groups))
    centred = parts - tf.reduce_mean(parts, (1, 2, 4), keepdims=True)
    variance = tf.reduce_mean(centred * centred, (1, 2, 4), keepdims=True)
    return tf.reshape(centred * tf.math.rsqrt(variance + layer.eps), x.shape) * weight + bias
