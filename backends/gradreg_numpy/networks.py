"""Portable networks in NumPy: outputs and explicit Jacobians, layer by layer, in real and in complex arithmetic."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import Any

import numpy as np

from gradreg_core.errors import BatchNormError, InputError, InputTypeError
from gradreg_core.portable.networks import BatchNorm, Layer, Network, Residual
from gradreg_numpy.functions import Array, numeric
from gradreg_numpy.layers import Linearized, linearize

__all__ = ["Model", "apply", "coupled", "full_jacobian", "initialize", "jacobian"]

Arrays = Mapping[str, Any]


def initialize(network: Network, seed: int) -> dict[str, Array]:
    """Float64 weights and statistics of `network` by path.

    Weights with two or more axes are Glorot uniform on +-sqrt(6 / (fan_in + fan_out)), with fans the last two axes
    times the kernel's area; biases are 0, normalisation scales 1, means 0, variances 1.
    """
    generator = np.random.default_rng(seed)
    params: dict[str, Array] = {}
    for path, shape in network.weights().items():
        if len(shape) >= 2:
            fans = (shape[-2] + shape[-1]) * math.prod(shape[:-2])
            limit = math.sqrt(6 / fans)
            params[path] = generator.uniform(-limit, limit, shape)
        else:
            params[path] = np.zeros(shape) if path.endswith(".bias") else np.ones(shape)
    for path, shape in network.statistics().items():
        params[path] = np.ones(shape) if path.endswith(".variance") else np.zeros(shape)
    return params


def _local(path: str, params: Arrays, masks: Arrays) -> dict[str, Array]:
    """The arrays of the layer at `path` by their short names, and its dropout mask as "mask"."""
    named = (key.rpartition(".") for key in params)
    own = {name: numeric(params[f"{prefix}.{name}"]) for prefix, _, name in named if prefix == path}
    return own | ({"mask": numeric(masks[path])} if path in masks else {})


def _linearized(
    layers: tuple[Layer, ...], prefix: str, params: Arrays, masks: Arrays, x: Array, first: int = 0
) -> Linearized:
    """The value and the tangent map of `layers`, the first of which is called `{prefix}{first}`."""
    tangents: list[Callable[[Array], Array]] = []
    for index, layer in enumerate(layers, first):
        path = f"{prefix}{index}"
        if isinstance(layer, Residual):
            y, inner = _linearized(layer.layers, f"{path}.", params, masks, x)
            x = x + y
            tangents.append(partial(lambda inner, dx: dx + inner(dx), inner))
        else:
            x, tangent = linearize(layer, _local(path, params, masks), x)
            tangents.append(tangent)
    return x, lambda dx: reduce(lambda pushed, tangent: tangent(pushed), tangents, dx)


def apply(
    network: Network, params: Arrays, x: Any, masks: Arrays | None = None, *, start: int = 0, stop: int | None = None
) -> Array:
    """The output for x of shape (B, *input_shape), shape (B, *output_shape).

    Args:
        network: the description.
        params: arrays by path, weights and statistics ("0.weight", "3.mean"), real or complex.
        x: the input, or the activation that enters layer `start`.
        masks: dropout masks (B, *sample) by the layer's path; a layer without one is the identity.
        start: the first top-level layer to apply.
        stop: the top-level layer to stop before, as in a slice.
    """
    return _linearized(network.layers[start:stop], "", params, masks or {}, numeric(x), start)[0]


def coupled(network: Network, start: int = 0, stop: int | None = None) -> bool:
    """Whether the layers [start, stop) couple samples: batch normalisation by the batch's own moments."""
    return any(
        isinstance(layer, BatchNorm) and layer.training
        for path, layer, _ in network.walk()
        if int(path.partition(".")[0]) in range(len(network.layers))[start:stop]
    )


def _pushed(
    network: Network, params: Arrays, x: Array, masks: Arrays | None, layers: slice, basis: Array
) -> tuple[Array, Array]:
    """(z, dz) for the tangents `basis` of the input x of `layers`; dz has shape (B, m, T)."""
    z, tangent = _linearized(network.layers[layers], "", params, masks or {}, x, layers.start)
    dz = tangent(basis.reshape(-1, *x.shape))
    return z, np.moveaxis(dz.reshape(len(dz), len(z), -1), 0, -1)


def jacobian(
    network: Network, params: Arrays, x: Any, masks: Arrays | None = None, *, start: int = 0, stop: int | None = None
) -> tuple[Array, Array]:
    """(z, J): the outputs and J[i, k, c] = dz[i, k] / dx[i, c], shape (B, m, d), outputs and inputs flattened.

    All d basis vectors of the input are pushed through as tangents, the same in every sample. With `start` the
    derivative is with respect to the activation x that enters that top-level layer; with `stop` it is that of the
    activation that enters that layer.

    Raises:
        BatchNormError: the samples are coupled, so this is not the whole derivative; see `full_jacobian`.
    """
    if coupled(network, start, stop):
        raise BatchNormError(
            "jacobian: BatchNorm(training=True) couples the samples, so dz_i/dx_i is not the whole derivative; "
            "use full_jacobian, or freeze the statistics."
        )
    x = numeric(x)
    batch, size = len(x), math.prod(x.shape[1:])
    basis = np.broadcast_to(np.eye(size)[:, None, :], (size, batch, size))
    return _pushed(network, params, x, masks, slice(start, stop), basis)


def full_jacobian(
    network: Network, params: Arrays, x: Any, masks: Arrays | None = None, *, start: int = 0, stop: int | None = None
) -> tuple[Array, Array]:
    """(z, F): the outputs and F[i, k, j, c] = dz[i, k] / dx[j, c], shape (B, m, B, d): also between samples."""
    x = numeric(x)
    batch, size = len(x), math.prod(x.shape[1:])
    z, dz = _pushed(network, params, x, masks, slice(start, stop), np.eye(batch * size))
    return z, dz.reshape(batch, -1, batch, size)


@dataclass(frozen=True, eq=False)
class Model:
    """A portable network with its arrays: a callable x -> z.

    Args:
        network: the description.
        params: weights and statistics by path, real or complex.
        masks: dropout masks (B, *sample) by path; a Dropout without one is the identity.
        normals: a function applied to the normal draws of the projections. The conformance kit perturbs
            them with it to measure the effect of rounding.

    Raises:
        InputError: an array is missing, unknown or of the wrong shape.
        InputTypeError: `network` is not a Network.
    """

    network: Network
    params: Mapping[str, Any]
    masks: Mapping[str, Any] | None = None
    normals: Callable[[Array], Array] | None = None
    _shapes: dict[str, tuple[int, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.network, Network):
            raise InputTypeError(
                f"Model: expected a gradreg_core.portable.networks.Network, got {type(self.network).__name__}."
            )
        shapes = self.network.weights() | self.network.statistics()
        object.__setattr__(self, "_shapes", shapes)
        object.__setattr__(self, "params", {path: numeric(value) for path, value in self.params.items()})
        object.__setattr__(self, "masks", {path: numeric(value) for path, value in (self.masks or {}).items()})
        if set(shapes) != set(self.params):
            raise InputError(
                f"Model: params must have the arrays of network.weights() and network.statistics(); missing are "
                f"{sorted(set(shapes) - set(self.params))}, unknown are {sorted(set(self.params) - set(shapes))}."
            )
        for path, shape in shapes.items():
            if self.params[path].shape != shape:
                raise InputError(f"Model: params[{path!r}] must have shape {shape}, got {self.params[path].shape}.")
        known = self.network.masks()
        for path, mask in (self.masks or {}).items():
            if path not in known or mask.shape[1:] != known[path]:
                raise InputError(f"Model: masks[{path!r}] has shape {mask.shape}; the network takes masks {known}.")

    def __call__(self, x: Any) -> Array:
        """The outputs for x of shape (B, *input_shape)."""
        return apply(self.network, self.params, self.checked("Model", x), self.masks)

    def checked(self, call: str, x: Any) -> Array:
        """`x` as float64 or complex128.

        Raises:
            InputError: its shape is not (B, *input_shape), or the masks are for another number of samples.
            InputTypeError: it is not an array of floating-point numbers.
        """
        try:
            kind, array = np.asarray(x).dtype.kind, numeric(x)
        except (TypeError, ValueError) as error:
            raise InputTypeError(f"{call}: x must be an array of numbers, got {type(x).__name__}.") from error
        if kind not in "fc":
            raise InputTypeError(
                f"{call}: x has dtype {np.asarray(x).dtype}; only floating-point inputs have a gradient, so convert it."
            )
        if array.ndim == 0 or array.shape[1:] != self.network.input_shape or len(array) == 0:
            wanted = ", ".join(map(str, self.network.input_shape))
            raise InputError(f"{call}: expected x of shape (B, {wanted}) with at least one sample, got {array.shape}.")
        for path, mask in (self.masks or {}).items():
            if len(mask) != len(array):
                raise InputError(f"{call}: masks[{path!r}] is for {len(mask)} samples, but x has {len(array)}.")
        return array

    def replaced(self, path: str, value: Any) -> "Model":
        """The model with another array at `path`."""
        return replace(self, params={**self.params, path: value})

    def take(self, samples: Array) -> "Model":
        """The model for a part of the batch: with its masks at the indices `samples`."""
        return replace(self, masks={path: mask[samples] for path, mask in (self.masks or {}).items()})

    def _index(self, argument: str, name: str) -> int:
        """The index of a top-level layer by its name; `argument` is for messages."""
        names = [str(index) for index in range(len(self.network.layers))]
        if name not in names:
            raise InputError(
                f"{argument}={name!r}: the network has no top-level layer of that name; it has {', '.join(names)}."
            )
        return names.index(name)

    def activation(self, x: Array, name: str | None, argument: str = "at") -> Array:
        """The output of the top-level layer `name`, or x if it is None; `argument` is for messages."""
        stop = 0 if name is None else self._index(argument, name) + 1
        return apply(self.network, self.params, x, self.masks, stop=stop)

    def differentiate(self, x: Array, at: str | None = None, of: str | None = None) -> tuple[Array, Array]:
        """Outputs z (B, *output_shape) and J (B, m, d), or F (B, m, B, d) if the samples are coupled.

        Args:
            x: the input (B, *input_shape).
            at: differentiate with respect to the output of this top-level layer, named by its index, such as "2".
            of: differentiate the output of this top-level layer in place of the network's; z is that output.

        Raises:
            InputError: there is no such layer, or `of` does not come after `at`.
        """
        start = 0 if at is None else self._index("at", at) + 1
        stop = len(self.network.layers) if of is None else self._index("of", of) + 1
        if at is not None and stop <= start:
            raise InputError(f"of={of!r} does not depend on at={at!r}, which does not come earlier.")
        entering = self.activation(x, at)
        derivative = full_jacobian if coupled(self.network, start, stop) else jacobian
        return derivative(self.network, self.params, entering, self.masks, start=start, stop=stop)
