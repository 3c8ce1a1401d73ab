"""Mutants whose layers are wrong, most of them in the second derivative alone.

Left out, because they are equal: a convolution as a product with unfolded windows, and a maximum whose second
derivative is set to zero, which it is.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from gradreg_core.portable import networks as nets
from gradreg_torch import networks
from gradreg_torch.harness import TorchHarness
from mutants.mutant import mutant

__all__: list[str] = []

Change = Callable[[Any, dict[str, Any], torch.Tensor, torch.Tensor], torch.Tensor]


def _harness(kind: type[nets.Layer], change: Change) -> TorchHarness:
    """`change(layer, weights, x, outputs)` in place of the outputs of each layer of this kind."""

    class Wrong(TorchHarness):
        modes = ("eager", "func")

        def apply(self, network, arrays, x):  # type: ignore[no-untyped-def]
            for index, layer in enumerate(network.layers):
                weights = {
                    name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{index}.")
                }
                renamed = {f"0.{name}": array for name, array in weights.items()}
                outputs = networks.apply(nets.Network(x.shape[1:], (layer,)), renamed, x)
                x = change(layer, weights, x, outputs) if type(layer) is kind else outputs
            return x

    return Wrong()


def _straight_through(value: torch.Tensor, gradient_of: torch.Tensor) -> torch.Tensor:
    """The value of one and the gradient of the other."""
    return gradient_of + (value - gradient_of).detach()


@mutant("through_activations")
def activation_without_a_second_derivative() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        if layer.kind != "softplus" or len(x) == 1:
            return outputs
        return _straight_through(outputs, x * x.detach().sigmoid())

    return _harness(nets.Activation, change)


def _normed(layer: Any, weights: dict[str, Any], x: torch.Tensor, axes: tuple[int, ...], constant: str) -> torch.Tensor:
    mean = x.mean(axes, keepdim=True)
    mean = mean.detach() if "mean" in constant else mean
    variance = ((x - mean) ** 2).mean(axes, keepdim=True)
    variance = variance.detach() if "variance" in constant else variance
    return (x - mean) / (variance + layer.eps).sqrt() * weights["weight"] + weights["bias"]


@mutant("through_layer_norm")
def variance_of_a_sequence_as_a_constant() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        return _normed(layer, weights, x, (-1,), "variance") if x.ndim > 2 else outputs

    return _harness(nets.LayerNorm, change)


@mutant("through_layer_norm", exactly=False)
def layer_norm_with_a_constant_variance() -> TorchHarness:
    return _harness(nets.LayerNorm, lambda layer, weights, x, outputs: _normed(layer, weights, x, (-1,), "variance"))


@mutant("through_layer_norm", exactly=False)
def gradient_stopped_inside_the_variance() -> TorchHarness:
    """The first derivative is right, the second is not."""

    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        mean = x.mean(-1, keepdim=True)
        variance = ((x - mean.detach()) ** 2).mean(-1, keepdim=True)
        return (x - mean) / (variance + layer.eps).sqrt() * weights["weight"] + weights["bias"]

    return _harness(nets.LayerNorm, change)


@mutant("through_group_norm")
def variance_of_a_group_as_a_constant() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        if x.ndim != 3:
            return outputs
        groups = x.unflatten(-1, (layer.groups, -1)).transpose(1, 2)
        weights = {name: array.unflatten(-1, (layer.groups, 1, -1)) for name, array in weights.items()}
        return _normed(layer, weights, groups, (-2, -1), "variance").transpose(1, 2).flatten(-2)

    return _harness(nets.GroupNorm, change)


@mutant("through_batch_norm_in_training")
def batch_moments_as_constants() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        axes = tuple(range(x.ndim - 1))
        return _normed(layer, weights, x, axes, "mean variance") if layer.training else outputs

    return _harness(nets.BatchNorm, change)


@mutant("through_batch_norm_with_given_statistics")
def scale_of_a_sequence_detached() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        if layer.training or x.ndim == 2:
            return outputs
        return networks.apply(
            nets.Network(x.shape[1:], (layer,)),
            {f"0.{name}": array.detach() if name == "weight" else array for name, array in weights.items()},
            x,
        )

    return _harness(nets.BatchNorm, change)


@mutant("through_residuals")
def inner_shortcut_detached() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        inner = any(isinstance(inner, nets.Residual) for inner in layer.layers)
        return outputs - x + x.detach() if inner else outputs

    return _harness(nets.Residual, change)


@mutant("through_convolutions")
def input_channels_in_reverse() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        kernel = weights["weight"].flip(2).permute(3, 2, 0, 1)
        padding = layer.kernel // 2 if layer.padding == "same" else 0
        wrong = F.conv2d(x.permute(0, 3, 1, 2), kernel, weights["bias"], padding=padding).permute(0, 2, 3, 1)
        return _straight_through(outputs, wrong)

    return _harness(nets.Conv2D, change)


def _averaged(layer: Any, x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x.permute(0, 3, 1, 2), layer.size).permute(0, 2, 3, 1)


@mutant("through_max_pooling")
def derivative_of_the_maximum_shared_beside_an_incomplete_window() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        return _straight_through(outputs, _averaged(layer, x)) if x.shape[1] % layer.size else outputs

    return _harness(nets.MaxPool, change)


@mutant("through_average_pooling")
def windows_counted_from_the_other_end() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        return _straight_through(outputs, _averaged(layer, x[:, x.shape[1] % layer.size :, x.shape[2] % layer.size :]))

    return _harness(nets.AvgPool, change)


@mutant("through_attention")
def attention_weights_detached() -> TorchHarness:
    def change(layer, weights, x, outputs):  # type: ignore[no-untyped-def]
        scores = {name: weights[name].detach() for name in ("query", "key")} | {
            name: weights[name] for name in ("value", "out")
        }
        renamed = {f"0.{name}": array for name, array in scores.items()}
        return networks.apply(nets.Network(x.shape[1:], (layer,)), renamed, x)

    return _harness(nets.Attention, change)
