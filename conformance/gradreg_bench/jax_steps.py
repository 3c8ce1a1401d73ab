"""Training steps in JAX, under jit."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gradreg_bench.steps import Model, Steps, Total, network_arrays
from gradreg_bench.variants import Variant
from gradreg_core.portable.networks import Network
from gradreg_jax.convolution import conv_general_dilated
from gradreg_jax.networks import apply

__all__ = ["JaxSteps"]


class JaxSteps(Steps):
    """The steps of a pair (function of (params, x), params).

    In the mode "fast", a network described in :mod:`gradreg_bench.networks` uses the convolution of
    `gradreg_jax.convolution`, in all steps.
    """

    modes = ("jit", "fast")

    def __init__(self, backend: str, model: Any, x: Any, y: Any, mode: str) -> None:
        x, y = (jnp.asarray(value) if isinstance(value, np.ndarray) else value for value in (x, y))
        super().__init__(backend, model, x, y, mode)
        self.apply, self.params = model

    @classmethod
    def of_network(cls, backend: str, network: Network, batch: int, mode: str) -> "JaxSteps":
        values, x, y = network_arrays(network, batch)
        arrays = {path: jnp.asarray(value) for path, value in values.items()}
        trained = {path: arrays.pop(path) for path in network.weights()}
        run = partial(apply, network, convolve=conv_general_dilated if mode == "fast" else lax.conv_general_dilated)
        model = (lambda weights, x: run(weights | arrays, x), trained)
        return cls(backend, model, jnp.asarray(x), jnp.asarray(y), mode)

    def forward(self, x: Any) -> Any:
        return self.apply(self.params, x)

    def prepare(self, total: Total, variant: Variant) -> Callable[[int], Any]:
        def value(params: Any, x: Any, step: Any) -> Any:
            return total(lambda x: self.apply(params, x), params, x, step)

        compiled = jax.jit(jax.grad(value))
        return lambda number: jax.block_until_ready(compiled(self.params, self.x, np.int32(number)))

    def loss(self, z: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(z), self.y[:, None], 1).mean()

    def vjp(self, model: Model, x: Any, *, differentiable: bool = True) -> tuple[Any, Model]:
        z, pullback = jax.vjp(model, x)
        return z, lambda w: pullback(w)[0]

    def normal(self, z: Any, step: Any) -> Any:
        return jax.random.normal(jax.random.key(step), z.shape)

    def difference(self, z: Any) -> Any:
        return jax.nn.softmax(z) - jax.nn.one_hot(self.y, z.shape[-1])

    def row(self, z: Any, index: int) -> Any:
        return jnp.zeros_like(z).at[:, index].set(1)

    def sum(self, array: Any) -> Any:
        return array.sum()

    def stop_gradient(self, array: Any) -> Any:
        return lax.stop_gradient(array)

    def jacobian(self, model: Model, x: Any) -> Any:
        return jax.vmap(jax.jacrev(lambda sample: model(sample[None])[0]))(x)

    def checkpointed(self, model: Model) -> Model:
        return jax.checkpoint(model)
