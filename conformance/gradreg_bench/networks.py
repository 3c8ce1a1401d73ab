"""The networks of the timed steps, described once for all frameworks, and the arithmetic that they need.

Counting only multiply-adds of dense, convolutional and attention layers, with a forward pass as the unit
and f the share of the first layer, whose input needs no gradient:

    plain step                 3 - f          forward 1, weights 1, inputs 1 - f
    k projections              3 + 3k - f     k pullbacks, each differentiated with respect to both its factors
    limit of the ratio         (3 + 3k - f) / (3 - f)
"""

import math
from collections.abc import Callable, Iterator

from gradreg_core.portable import networks as nets

__all__ = ["NETWORKS", "first_share", "layer_work", "limit"]


_relu = nets.Activation("relu")


def _resnet(norm: Callable[[], nets.Layer]) -> nets.Network:
    def block(filters: int) -> tuple[nets.Layer, ...]:
        inner = (nets.Conv2D(filters, 3, "same"), norm(), _relu, nets.Conv2D(filters, 3, "same"), norm())
        return (nets.Residual(inner), _relu)

    def stage(filters: int) -> tuple[nets.Layer, ...]:
        return (nets.Conv2D(filters, 3, "same"), norm(), _relu, *block(filters), *block(filters))

    pooled = nets.AvgPool(2)
    layers = (*stage(16), pooled, *stage(32), pooled, *stage(64), nets.AvgPool(8), nets.Flatten(), nets.Dense(10))
    return nets.Network((32, 32, 3), layers)


def _transformer(width: int = 128, blocks: int = 2) -> nets.Network:
    attention = nets.Residual((nets.LayerNorm(), nets.Attention(4)))
    dense = (nets.LayerNorm(), nets.Dense(4 * width), nets.Activation("gelu"), nets.Dense(width))
    body = (attention, nets.Residual(dense)) * blocks
    return nets.Network((16, 48), (nets.Dense(width), *body, nets.LayerNorm(), nets.Flatten(), nets.Dense(10)))


def _lenet(padding: str) -> nets.Network:
    convolutions = (nets.Conv2D(6, 5, padding), _relu, nets.MaxPool(2), nets.Conv2D(16, 5), _relu, nets.MaxPool(2))
    last = (nets.Conv2D(120, 5), _relu) if padding == "same" else (nets.Flatten(), nets.Dense(120), _relu)
    return nets.Network((28, 28, 1), (*convolutions, *last, nets.Flatten(), nets.Dense(84), _relu, nets.Dense(10)))


NETWORKS: dict[str, nets.Network] = {
    "mlp": nets.Network((784,), (nets.Dense(512), _relu, nets.Dense(512), _relu, nets.Dense(10))),
    "lenet": _lenet("same"),
    "lenet-valid": _lenet("valid"),
    "resnet-groupnorm": _resnet(lambda: nets.GroupNorm(8)),
    "resnet-batchnorm": _resnet(nets.BatchNorm),
    "transformer": _transformer(),
}
"""Networks: an MLP 784-512-512-10; LeNet-5 with and without padding; a ResNet of 16 layers on 32 x 32 x 3 images with
GroupNorm, or with BatchNorm on given statistics; a transformer of two blocks over 16 tokens of 48 numbers."""


def _work(layer: nets.Layer, shape: nets.Shape) -> int:
    match layer:
        case nets.Dense():
            return math.prod(shape) * layer.units
        case nets.Conv2D():
            height, width, filters = layer.output_shape(shape)
            return height * width * filters * layer.kernel**2 * shape[-1]
        case nets.Attention():
            time, channels = shape
            return 4 * time * channels**2 + 2 * time**2 * channels
    return 0


def layer_work(network: nets.Network) -> Iterator[tuple[str, int]]:
    """(path, multiply-adds of a forward pass for one sample) of each layer that has any, in order of application."""
    for path, layer, shape in network.walk():
        if work := _work(layer, shape):
            yield path, work


def first_share(network: nets.Network) -> float:
    """f, the first layer's share of a forward pass."""
    work = [count for _, count in layer_work(network)]
    return work[0] / sum(work)


def limit(share: float, projections: float) -> float:
    """(3 + 3k - f) / (3 - f), the lowest ratio of an exact penalty with k projections to a plain step."""
    return (3 + 3 * projections - share) / (3 - share)
