"""Portable networks: one description of a network that every backend builds from the same weights.

A description is a value: layers over channels-last arrays, weights in a flat dict of arrays named by path ("2.weight").
Each backend has an interpreter (``gradreg_torch.networks``, ...): :func:`interpret` with a rule for each layer. NumPy's
is its own, with analytic Jacobians. The tests, the conformance kit, the demo and the reproduction use them wherever
two frameworks must compute the same thing.

Conventions, the same in all frameworks: kernels are (height, width, in, out), dense weights (in, out). Pooling windows
do not overlap, and an incomplete last one is left out. LayerNorm takes its moments over the last axis, BatchNorm over
all but the last, GroupNorm per sample over all positions and the channels of a group; the variance is biased in all
three. GELU is the exact form, "gelu_tanh" the approximation. A dropout mask is given, already scaled.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gradreg_core.errors import SpecError, UnsupportedError

__all__ = [
    "ACTIVATIONS",
    "LAYERS",
    "LEAKY_SLOPE",
    "Activation",
    "Attention",
    "AvgPool",
    "BatchNorm",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "GroupNorm",
    "Layer",
    "LayerNorm",
    "MaxPool",
    "Network",
    "Residual",
    "Rules",
    "interpret",
]

Shape = tuple[int, ...]
Array = Any
"""An array of the framework that interprets the network."""
Arrays = Mapping[str, Array]
Rules = Mapping[type["Layer"], Callable[[Any, Arrays, Array], Array]]
"""A framework's rule for each layer: rule(layer, the layer's own arrays by name, x) -> the layer's output."""
ACTIVATIONS = ("relu", "leaky_relu", "tanh", "sigmoid", "softplus", "gelu", "gelu_tanh")
LEAKY_SLOPE = 0.2


class Layer:
    """A step of a network: how it changes a sample's shape, and the shapes of its weights."""

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of one sample after the layer."""
        return shape

    def weights(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of the trainable weights, for samples of `shape`."""
        return {}

    def statistics(self, shape: Shape) -> dict[str, Shape]:
        """Names and shapes of arrays that are given and not trained: moving statistics."""
        return {}


@dataclass(frozen=True)
class Dense(Layer):
    """x @ weight + bias over the last axis."""

    units: int
    bias: bool = True

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.units)

    def weights(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (shape[-1], self.units)} | ({"bias": (self.units,)} if self.bias else {})


@dataclass(frozen=True)
class Conv2D(Layer):
    """Cross-correlation with stride 1 over (height, width, channels), odd square kernel; padding "valid" or "same"."""

    filters: int
    kernel: int = 3
    padding: str = "valid"

    def __post_init__(self) -> None:
        if self.kernel % 2 != 1 or self.padding not in ("valid", "same"):
            raise SpecError(f"Conv2D: expected an odd kernel and padding 'valid' or 'same', got {self!r}.")

    def output_shape(self, shape: Shape) -> Shape:
        lost = 0 if self.padding == "same" else self.kernel - 1
        return (shape[0] - lost, shape[1] - lost, self.filters)

    def weights(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (self.kernel, self.kernel, shape[2], self.filters), "bias": (self.filters,)}


@dataclass(frozen=True)
class _Pool(Layer):
    size: int = 2

    def output_shape(self, shape: Shape) -> Shape:
        return (shape[0] // self.size, shape[1] // self.size, shape[2])


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Maximum over size x size windows."""


@dataclass(frozen=True)
class AvgPool(_Pool):
    """Mean over size x size windows."""


@dataclass(frozen=True)
class Flatten(Layer):
    """Flattens all axes of a sample into one, in row-major order."""

    def output_shape(self, shape: Shape) -> Shape:
        return (math.prod(shape),)


@dataclass(frozen=True)
class Activation(Layer):
    """An elementwise function, one of ACTIVATIONS; leaky_relu has slope LEAKY_SLOPE below 0."""

    kind: str

    def __post_init__(self) -> None:
        if self.kind not in ACTIVATIONS:
            raise SpecError(f"Activation: kind must be one of {', '.join(ACTIVATIONS)}, got {self.kind!r}.")


@dataclass(frozen=True)
class LayerNorm(Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias, over the last axis."""

    eps: float = 1e-5

    def weights(self, shape: Shape) -> dict[str, Shape]:
        return {"weight": (shape[-1],), "bias": (shape[-1],)}


@dataclass(frozen=True)
class BatchNorm(LayerNorm):
    """The same per channel: with the batch's moments if `training`, which couples the samples, else with given ones."""

    training: bool = False

    def statistics(self, shape: Shape) -> dict[str, Shape]:
        return {} if self.training else {"mean": (shape[-1],), "variance": (shape[-1],)}


@dataclass(frozen=True)
class GroupNorm(Layer):
    """The same per sample, with moments over all positions and the channels of one of `groups` equal groups.

    Groups consist of neighbouring channels, the channels are the last axis, and weight and bias are per channel.
    """

    groups: int
    eps: float = 1e-5

    def weights(self, shape: Shape) -> dict[str, Shape]:
        if self.groups < 1 or shape[-1] % self.groups:
            raise SpecError(f"GroupNorm: {shape[-1]} channels do not divide into {self.groups} groups.")
        return {"weight": (shape[-1],), "bias": (shape[-1],)}


@dataclass(frozen=True)
class Dropout(Layer):
    """x * mask with a given mask of shape (B, *sample), already scaled by 1 / keep; without one, the identity."""

    rate: float = 0.5


@dataclass(frozen=True)
class Attention(Layer):
    """Multi-head self-attention over (time, channels): one query, key, value and output projection, no mask."""

    heads: int = 1

    def weights(self, shape: Shape) -> dict[str, Shape]:
        channels = shape[-1]
        if channels % self.heads:
            raise SpecError(f"Attention: {channels} channels do not divide into {self.heads} heads.")
        return dict.fromkeys(("query", "key", "value", "out"), (channels, channels))


@dataclass(frozen=True)
class Residual(Layer):
    """x + layers(x); the layers keep the shape."""

    layers: tuple[Layer, ...]

    def output_shape(self, shape: Shape) -> Shape:
        inner = shape
        for layer in self.layers:
            inner = layer.output_shape(inner)
        if inner != shape:
            raise SpecError(f"Residual: the layers turn {shape} into {inner}; the shape must stay.")
        return shape


LAYERS: frozenset[type[Layer]] = frozenset(
    {
        Dense,
        Conv2D,
        MaxPool,
        AvgPool,
        Flatten,
        Activation,
        LayerNorm,
        BatchNorm,
        GroupNorm,
        Dropout,
        Attention,
        Residual,
    }
)
"""Every portable layer."""


@dataclass(frozen=True)
class Network:
    """Layers applied in turn to samples of `input_shape`."""

    input_shape: Shape
    layers: tuple[Layer, ...]

    def walk(self) -> Iterator[tuple[str, Layer, Shape]]:
        """(path, layer, input shape) of every layer, also those inside residual blocks, in order of application."""
        yield from _walk("", self.layers, self.input_shape)

    @property
    def output_shape(self) -> Shape:
        """The shape of one sample's output."""
        shape = self.input_shape
        for layer in self.layers:
            shape = layer.output_shape(shape)
        return shape

    def weights(self) -> dict[str, Shape]:
        """Shapes of all trainable weights by path."""
        return {
            f"{path}.{name}": weight
            for path, layer, shape in self.walk()
            for name, weight in layer.weights(shape).items()
        }

    def statistics(self) -> dict[str, Shape]:
        """Shapes of all given statistics by path."""
        return {
            f"{path}.{name}": value
            for path, layer, shape in self.walk()
            for name, value in layer.statistics(shape).items()
        }

    def masks(self) -> dict[str, Shape]:
        """Per-sample shapes of the dropout masks by path."""
        return {path: shape for path, layer, shape in self.walk() if isinstance(layer, Dropout)}


def _walk(prefix: str, layers: tuple[Layer, ...], shape: Shape) -> Iterator[tuple[str, Layer, Shape]]:
    for index, layer in enumerate(layers):
        path = f"{prefix}{index}"
        yield path, layer, shape
        if isinstance(layer, Residual):
            yield from _walk(f"{path}.", layer.layers, shape)
        shape = layer.output_shape(shape)


def interpret(rules: Rules, network: Network, arrays: Arrays, x: Array, masks: Arrays | None = None) -> Array:
    """The network's outputs for inputs x of shape (B, *network.input_shape), computed by a framework's rules.

    Args:
        rules: one for each class of layer; Residual and Dropout need none.
        network: the description.
        arrays: weights and statistics by path.
        x: inputs, channels last.
        masks: dropout masks by path, (B, *sample); without them dropout is the identity.

    Raises:
        UnsupportedError: a layer without a rule.
    """
    return _interpret(rules, network.layers, "", arrays, masks or {}, x)


def _interpret(rules: Rules, layers: tuple[Layer, ...], prefix: str, arrays: Arrays, masks: Arrays, x: Array) -> Array:
    for index, layer in enumerate(layers):
        path = f"{prefix}{index}"
        if isinstance(layer, Residual):
            x = x + _interpret(rules, layer.layers, f"{path}.", arrays, masks, x)
        elif isinstance(layer, Dropout):
            x = x * masks[path] if path in masks else x
        elif type(layer) in rules:
            own = {name[len(path) + 1 :]: array for name, array in arrays.items() if name.startswith(f"{path}.")}
            x = rules[type(layer)](layer, own, x)
        else:
            raise UnsupportedError(f"there is no rule for the layer {layer!r} in this framework.")
    return x
