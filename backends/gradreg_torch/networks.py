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


def _attention(layer: portable.Attention, weight: Arrays, x: Tensor) -> Tensor:
    batch, time, channels = x.shape
    heads, size = layer.heads, channels // layer.heads

    def split(name: str) -> Tensor:
        return (x @ weight[name]).reshape(batch, time, heads, size).transpose(1, 2)

    scores = split("query") @ split("key").transpose(2, 3) / math.sqrt(size)
    mixed = scores.softmax(-1) @ split("value")
    return mixed.transpose(1, 2).reshape(batch, time, channels) @ weight["out"]


def _dense(layer: portable.Dense, weight: Arrays, x: Tensor) -> Tensor:
    product = x @ weight["weight"]
    return product + weight["bias"] if layer.bias else product


def _convolution(layer: portable.Conv2D, weight: Arrays, x: Tensor) -> Tensor:
    kernel = weight["weight"].permute(3, 2, 0, 1)
    padding = layer.kernel // 2 if layer.padding == "same" else 0
    return F.conv2d(_spatial(x), kernel, weight["bias"], padding=padding).permute(0, 2, 3, 1)


def _batch_norm(layer: portable.BatchNorm, weight: Arrays, x: Tensor) -> Tensor:
    moments = weight.get("mean"), weight.get("variance")
    scale, bias = weight["weight"], weight["bias"]
    normed = F.batch_norm(x.movedim(-1, 1), *moments, scale, bias, training=layer.training, eps=layer.eps)
    return normed.movedim(1, -1)


def _group_norm(layer: portable.GroupNorm, weight: Arrays, x: Tensor) -> Tensor:
    normed = F.group_norm(x.movedim(-1, 1), layer.groups, weight["weight"], weight["bias"], layer.eps)
    return normed.movedim(1, -1)


_RULES: portable.Rules = {
    portable.Dense: _dense,
    portable.Conv2D: _convolution,
    portable.MaxPool: lambda layer, weight, x: F.max_pool2d(_spatial(x), layer.size).permute(0, 2, 3, 1),
    portable.AvgPool: lambda layer, weight, x: F.avg_pool2d(_spatial(x), layer.size).permute(0, 2, 3, 1),
    portable.Flatten: lambda layer, weight, x: x.reshape(x.shape[0], -1),
    portable.Activation: lambda layer, weight, x: _ACTIVATIONS[layer.kind](x),
    portable.BatchNorm: _batch_norm,
    portable.LayerNorm: lambda layer, weight, x: F.layer_norm(
        x, x.shape[-1:], weight["weight"], weight["bias"], layer.eps
    ),
    portable.GroupNorm: _group_norm,
    portable.Attention: _attention,
}


def apply(network: portable.Network, params: Arrays, x: Tensor, masks: Arrays | None = None) -> Tensor:
    """The network's outputs for x; see :func:`gradreg_core.portable.networks.interpret`."""
    outputs: Tensor = portable.interpret(_RULES, network, params, x, masks)
    return outputs


class Module(nn.Module):
    """A portable network with its weights as parameters; dropout draws its own masks in training mode.

    Args:
        network: the description.
        params: weights and statistics by path, any array type; they are copied.
        dtype: the parameters' type.
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
