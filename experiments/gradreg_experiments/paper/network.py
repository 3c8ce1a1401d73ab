"""The paper's networks as portable descriptions, with the initial weights of the authors' code."""

from typing import Any

import numpy as np

from gradreg_core.portable.networks import (
    Activation,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    Network,
)
from gradreg_experiments.paper.protocol import Protocol

__all__ = ["CLASSES", "build", "initialise", "parameter_count"]

CLASSES = 10
_CHANNELS = {"lenet": (6, 16), "lenettuned": (32, 64)}


def build(protocol: Protocol) -> Network:
    """LeNet: three 5x5 convolutions (the first padded), two poolings, 84 units, the layer under study, 10 logits.

    The third convolution covers its whole input, so it is written as a dense layer. "toy" is a perceptron
    with five hidden layers of 64 units, from one number to one.
    """
    active = Activation(protocol.activation)
    if protocol.network == "toy":
        return Network((1,), (*[layer for _ in range(5) for layer in (Dense(64), active)], Dense(1)))
    first, second = _CHANNELS[protocol.network]
    before_last: dict[str, tuple[Layer, ...]] = {
        "none": (),
        "dropout": (Dropout(1 - protocol.keep),),
        "batchnorm": (BatchNorm(training=True),),
    }
    return Network(
        (28, 28, 1),
        (
            *(Conv2D(first, 5, "same"), active, MaxPool()),
            *(Conv2D(second, 5, "valid"), active, MaxPool()),
            *(Flatten(), Dense(120), active, Dense(84), active),
            *(*before_last[protocol.before_last], Dense(CLASSES)),
        ),
    )


def parameter_count(network: Network) -> int:
    """The number of trainable weights."""
    return sum(int(np.prod(shape)) for shape in network.weights().values())


def initialise(network: Network, seed: int) -> "dict[str, np.ndarray[Any, Any]]":
    """Initial weights by path, float32.

    Uniform with deviation sqrt(4 / (fan_in + fan_out)) for convolutions (also the third; fans count the 25 positions),
    sqrt(2 / (fan_in + fan_out)) for dense layers; scales of normalisation are 1, all others 0.
    """
    generator = np.random.default_rng([seed, 0])
    convolutional = any(isinstance(layer, Conv2D) for layer in network.layers)
    dense_seen = 0
    params = {}
    for path, shape in network.weights().items():
        if len(shape) == 1:
            scales = path.endswith(".weight")
            params[path] = np.full(shape, 1.0 if scales else 0.0, np.float32)
            continue
        gain, fans = 2.0, float(shape[-2] + shape[-1])
        if len(shape) == 4:
            gain, fans = 4.0, float((shape[2] + shape[3]) * shape[0] * shape[1])
        elif convolutional and dense_seen == 0:  # the third convolution: 5x5 positions, 16 (or 64) channels in, 120 out
            gain, fans = 4.0, float(shape[0] + shape[1] * 25)
        dense_seen += len(shape) == 2
        bound = np.sqrt(3 * gain / fans)
        params[path] = generator.uniform(-bound, bound, shape).astype(np.float32)
    return params
