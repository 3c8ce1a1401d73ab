"""Portable networks in PyTorch."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradreg_core.portable import networks as portable

__all__ = ["Module", "apply"]

_ACTIVATIONS = {
    "relu": F.relu,
    "leaky_relu": lambda x: F.leaky_relu(x, portable.LEAKY_SLOPE),
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "softplus": lambda x: -F.logsigmoid(-x),
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}

Arrays = Mapping[str, Tensor]


def _spatial(x: Tensor) -> Tensor:
    """(B, H, W, C) as PyTorch's (B, C, H, W)."""
    return x.permute(0, 3, 1, 2)


def _attention(x: Tensor, weight: dict[str, Tensor], heads: int) -> Tensor:
    batch, time, channels = x.shape
    size = channels // heads

    def split(name: str) -> Tensor:
        return (x @ weight[name]).reshape(batch, time, heads, size).transpose(1, 2)

    scores = split("query") @ split("key").transpose(2, 3) / math.sqrt(size)
    mixed = scores.softmax(-1) @ split("value")
    return mixed.transpose(1, 2).reshape(batch, time, channels) @ weight["out"]


def _layer(layer: portable.Layer, path: str, params: Arrays, masks: Arrays, x: Tensor) -> Tensor:
    weight = {name[len(path) + 1 :]: value for name, value in params.items() if name.startswith(f"{path}.")}
    match layer:
        case portable.Dense():
            x = x @ weight["weight"]
            return x + weight["bias"] if layer.bias else x
        case portable.Conv2D():
            kernel = weight["weight"].permute(3, 2, 0, 1)
            padding = layer.kernel // 2 if layer.padding == "same" else 0
            return F.conv2d(_spatial(x), kernel, weight["bias"], padding=padding).permute(0, 2, 3, 1)
        case portable.MaxPool():
            return F.max_pool2d(_spatial(x), layer.size).permute(0, 2, 3, 1)
        case portable.AvgPool():
            return F.avg_pool2d(_spatial(x), layer.size).permute(0, 2, 3, 1)
        case portable.Flatten():
            return x.reshape(x.shape[0], -1)
        case portable.Activation():
            return _ACTIVATIONS[layer.kind](x)
        case portable.BatchNorm():
            moved = x.movedim(-1, 1)
            mean, variance = weight.get("mean"), weight.get("variance")
            scale, bias = weight["weight"], weight["bias"]
            normed = F.batch_norm(moved, mean, variance, scale, bias, training=layer.training, eps=layer.eps)
            return normed.movedim(1, -1)
        case portable.LayerNorm():
            return F.layer_norm(x, x.shape[-1:], weight["weight"], weight["bias"], layer.eps)
        case portable.GroupNorm():
            moved = x.movedim(-1, 1)
            return F.group_norm(moved, layer.groups, weight["weight"], weight["bias"], layer.eps).movedim(1, -1)
        case portable.Dropout():
            return x * masks[path] if path in masks else x
        case portable.Attention():
            return _attention(x, weight, layer.heads)
        case portable.Residual():
            return x + _layers(layer.layers, f"{path}.", params, masks, x)
    raise TypeError(f"{layer!r} is no portable layer.")


def _layers(layers: tuple[portable.Layer, ...], prefix: str, params: Arrays, masks: Arrays, x: Tensor) -> Tensor:
    for index, layer in enumerate(layers):
        x = _layer(layer, f"{prefix}{index}", params, masks, x)
    return x


def apply(network: portable.Network, params: Arrays, x: Tensor, masks: Arrays | None = None) -> Tensor:
    """The network's outputs for inputs x of shape (B, *network.input_shape).

    Args:
        network: the description.
        params: weights and statistics by path.
        x: inputs, channels last.
        masks: dropout masks by path, (B, *sample); without them dropout is the identity.
    """
    return _layers(network.layers, "", params, masks or {}, x)


class Module(nn.Module):
    """A portable network with its weights as parameters; dropout draws its own masks in training mode.

    Args:
        network: the description.
        params: weights and statistics by path, any array type; they are copied.
        dtype: of the parameters.
    """

    def __init__(
        self, network: portable.Network, params: Mapping[str, Any], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.network = network
        self._paths: dict[str, str] = {}
        for path, value in params.items():
            name = self._paths[path] = path.replace(".", "_")
            copied = torch.as_tensor(value).detach().to(dtype).clone()
            if path in network.weights():
                self.register_parameter(name, nn.Parameter(copied))
            else:
                self.register_buffer(name, copied)

    def named_arrays(self) -> dict[str, Tensor]:
        """Weights and statistics by path."""
        return {path: getattr(self, name) for path, name in self._paths.items()}

    def forward(self, x: Tensor) -> Tensor:
        """The outputs for x of shape (B, *network.input_shape)."""
        masks = {}
        if self.training:
            rates = {path: layer.rate for path, layer, _ in self.network.walk() if isinstance(layer, portable.Dropout)}
            masks = {
                path: F.dropout(torch.ones((len(x), *shape), dtype=x.dtype, device=x.device), rates[path])
                for path, shape in self.network.masks().items()
            }
        return apply(self.network, self.named_arrays(), x, masks)
