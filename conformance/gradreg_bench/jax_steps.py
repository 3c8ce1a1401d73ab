"""Training steps in JAX under jit: the loss and the gradients of all parameters, no optimizer."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import gradreg_jax as gradreg
from gradreg_bench.networks import GroupNorm
from gradreg_bench.variants import Variant
from gradreg_core.errors import UnsupportedError
from gradreg_core.portable import networks as nets
from gradreg_jax.layers import conv_general_dilated
from gradreg_jax.networks import apply
from gradreg_numpy.networks import initialize

__all__ = ["JaxSteps"]

_WEIGHT, _DIFFERENCE = 0.01, 0.01


class JaxSteps:
    """Steps of one model on one batch.

    Args:
        model: (function of (params, x), params).
        x: inputs.
        y: labels.
        mode: "jit", or "fast" (the same with the convolution of `gradreg_jax.layers`, in the plain step too).
    """

    def __init__(self, model: Any, x: Any, y: Any, mode: str) -> None:
        self.apply, self.params = model
        self.x, self.y = x, y

    @classmethod
    def of_network(cls, network: nets.Network, batch: int, mode: str) -> "JaxSteps":
        """A network described in :mod:`gradreg_bench.networks`."""
        random = np.random.default_rng(0)
        params = {path: jnp.asarray(value, jnp.float32) for path, value in initialize(network, 0).items()}
        x = jnp.asarray(random.normal(size=(batch, *network.input_shape)), jnp.float32)
        y = jnp.asarray(random.integers(0, network.output_shape[-1], batch))
        trained = {path: params.pop(path) for path in network.weights()}
        convolve = conv_general_dilated if mode == "fast" else lax.conv_general_dilated
        return cls((lambda weights, x: _run(network.layers, "", weights | params, x, convolve), trained), x, y, mode)

    @property
    def outputs(self) -> int:
        """m, the number of outputs of a sample."""
        return int(self.apply(self.params, self.x[:1]).size)

    def first_share(self) -> float | None:
        """Not known of a function."""
        return None

    def step(self, variant: Variant) -> Callable[[int], None]:
        """The step as a call.

        Raises:
            UnsupportedError: the variant means nothing in JAX.
        """
        if variant.reg is None:
            total = getattr(self, "_" + variant.name.replace(" ", "_").replace("(", "_").replace(")", ""), None)
            if total is None:
                raise UnsupportedError("a backward pass cannot be cut from the traced whole")
        else:
            total = self._regularized(variant)
        compiled = jax.jit(jax.grad(total))
        return lambda number: jax.block_until_ready(compiled(self.params, self.x, np.int32(number)))

    def _regularized(self, variant: Variant) -> Callable[..., Any]:
        def total(params: Any, x: Any, step: Any) -> Any:
            options = {"step": step, "params": params}
            return gradreg.loss(lambda at: self.apply(params, at), x, self.y, variant.reg, **options)[0]

        return total

    def _loss(self, z: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(z), self.y[:, None], 1).mean()

    def _plain(self, params: Any, x: Any, step: Any) -> Any:
        return self._loss(self.apply(params, x))

    def _separate_forward(self, params: Any, x: Any, step: Any) -> Any:
        z, pull = jax.vjp(lambda at: self.apply(params, at), x)
        (gradient,) = pull(jax.random.normal(jax.random.key(step), z.shape))
        return self._plain(params, x, step) + _WEIGHT * (gradient**2).sum() / len(x)

    def _projection_loop(self, params: Any, x: Any, step: Any) -> Any:
        z, pull = jax.vjp(lambda at: self.apply(params, at), x)
        total = self._loss(z)
        for index in range(z.shape[1]):
            (gradient,) = pull(jnp.zeros_like(z).at[:, index].set(1))
            total = total + _WEIGHT * (gradient**2).sum() / len(x)
        return total

    def _vmap_jacrev(self, params: Any, x: Any, step: Any) -> Any:
        jacobian = jax.vmap(jax.jacrev(lambda each: self.apply(params, each[None])[0]))(x)
        return self._plain(params, x, step) + _WEIGHT * (jacobian**2).sum() / len(x)

    def _gradient_difference(self, params: Any, x: Any, step: Any) -> Any:
        z, pull = jax.vjp(lambda at: self.apply(params, at), x)
        w = jax.random.normal(jax.random.key(step), z.shape)
        (gradient,) = pull(w)
        moved = self.apply(params, x + jax.lax.stop_gradient(_DIFFERENCE * gradient))
        return self._loss(z) + 2 * _WEIGHT / _DIFFERENCE * ((moved - z) * w).sum() / len(x)

    def _DataGrad_recomputed(self, params: Any, x: Any, step: Any) -> Any:  # noqa: N802 - the variant's name
        model = jax.checkpoint(lambda at: self.apply(params, at))
        return gradreg.loss(model, x, self.y, gradreg.DataGrad(1.0), step=step, params=params)[0]


def _run(layers: tuple[nets.Layer, ...], prefix: str, params: Mapping[str, Any], x: Any, convolve: Any) -> Any:
    for index, layer in enumerate(layers):
        path = f"{prefix}{index}"
        if isinstance(layer, nets.Residual):
            x = x + _run(layer.layers, f"{path}.", params, x, convolve)
        elif isinstance(layer, nets.Conv2D):
            options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "precision": lax.Precision.HIGHEST}
            x = convolve(x, params[f"{path}.weight"], (1, 1), layer.padding.upper(), **options)
            x = x + params[f"{path}.bias"]
        elif isinstance(layer, GroupNorm):
            x = _group_norm(layer, params[f"{path}.weight"], params[f"{path}.bias"], x)
        else:
            own = {f"0{name[len(path) :]}": value for name, value in params.items() if name.startswith(f"{path}.")}
            x = apply(nets.Network(x.shape[1:], (layer,)), own, x)
    return x


def _group_norm(layer: GroupNorm, weight: Any, bias: Any, x: Any) -> Any:
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height, width, layer.groups, channels // layer.groups)
    centred = parts - parts.mean((1, 2, 4), keepdims=True)
    normed = centred * jax.lax.rsqrt((centred**2).mean((1, 2, 4), keepdims=True) + layer.eps)
    return normed.reshape(x.shape) * weight + bias
