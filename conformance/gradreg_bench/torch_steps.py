"""Training steps in PyTorch: forward and backward pass, gradients of all parameters, no optimizer."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint_sequential

import gradreg_torch as gradreg
from gradreg_bench.networks import GroupNorm
from gradreg_bench.variants import Variant
from gradreg_core.errors import UnsupportedError
from gradreg_core.portable import networks as nets

__all__ = ["TorchSteps"]

_WEIGHT, _DIFFERENCE = 0.01, 0.01
_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class TorchSteps:
    """Steps of one model on one batch.

    Args:
        model: the module.
        x: inputs.
        y: labels.
        mode: "eager", or "compile" (the function that gives the loss, by inductor).
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, mode: str) -> None:
        self.model, self.x, self.y, self.mode = model, x, y, mode
        self.params = list(model.parameters())

    @classmethod
    def of_network(cls, network: nets.Network, batch: int, mode: str) -> "TorchSteps":
        """A network described in :mod:`gradreg_bench.networks`, in PyTorch's own layers and layout."""
        torch.manual_seed(0)
        model = nn.Sequential(*_modules(network.layers, network.input_shape)).eval()
        shape = network.input_shape
        x = torch.randn(batch, *((shape[2], *shape[:2]) if len(shape) == 3 else shape))
        return cls(model, x, torch.randint(network.output_shape[-1], (batch,)), mode)

    @property
    def outputs(self) -> int:
        """m, the number of outputs of a sample."""
        with torch.no_grad():
            return self.model(self.x[:1]).numel()

    def first_share(self) -> float | None:
        """F by PyTorch's own count: a plain step has (3 - f) times the operations of a forward pass."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as forward:
            loss = F.cross_entropy(self.model(self.x), self.y)
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        total = forward.get_total_flops()
        return None if total == 0 else min(1.0, max(0.0, 2 - backward.get_total_flops() / total))

    def step(self, variant: Variant) -> Callable[[int], None]:
        """The step as a call.

        Raises:
            UnsupportedError: the variant cannot be had in this mode.
        """
        make = getattr(self, f"_{_identifier(variant.name)}", None)
        if variant.reg is None and make is not None:
            if self.mode == "compile" and variant.name != "plain":
                raise UnsupportedError("autograd.grad does not compile")
            total = make
        else:
            total = self._regularized(variant)
        if self.mode == "compile":
            total = torch.compile(total)

        def run(number: int) -> None:
            for param in self.params:
                param.grad = None
            total(torch.tensor(number)).backward()

        return run

    def _regularized(self, variant: Variant) -> Callable[[Tensor], Tensor]:
        def total(step: Tensor) -> Tensor:
            result: Tensor = gradreg.loss(self.model, self.x, self.y, variant.reg, step=step, batch_norm="allow")[0]
            return result

        return total

    def _plain(self, step: Tensor) -> Tensor:
        return F.cross_entropy(self.model(self.x), self.y)

    def _separate_forward(self, step: Tensor) -> Tensor:
        x = self.x.detach().requires_grad_()
        loss, z = self._plain(step), self.model(x)
        (gradient,) = torch.autograd.grad(z, x, torch.randn_like(z), create_graph=True)
        return loss + _WEIGHT * gradient.square().sum() / len(x)

    def _rows(self) -> tuple[Tensor, Tensor, Tensor]:
        x = self.x.detach().requires_grad_()
        z = self.model(x)
        return x, z, F.cross_entropy(z, self.y)

    def _row(self, x: Tensor, z: Tensor, index: int) -> Tensor:
        v = torch.zeros_like(z)
        v[:, index] = 1
        (gradient,) = torch.autograd.grad(z, x, v, create_graph=True)
        return _WEIGHT * gradient.square().sum() / len(x)

    def _projection_loop(self, step: Tensor) -> Tensor:
        x, z, total = self._rows()
        for index in range(z.shape[1]):
            total = total + self._row(x, z, index)
        return total

    def _backward_per_projection(self, step: Tensor) -> Tensor:
        x, z, total = self._rows()
        for index in range(z.shape[1]):
            self._row(x, z, index).backward(retain_graph=True)
        return total

    def _vmap_jacrev(self, step: Tensor) -> Tensor:
        params = dict(self.model.named_parameters())

        def single(x: Tensor) -> Tensor:
            outputs: Tensor = torch.func.functional_call(self.model, params, (x[None],))[0]
            return outputs

        jacobian = torch.func.vmap(torch.func.jacrev(single))(self.x)
        return self._plain(step) + _WEIGHT * jacobian.square().sum() / len(self.x)

    def _gradient_difference(self, step: Tensor) -> Tensor:
        x = self.x.detach().requires_grad_()
        z = self.model(x)
        w = torch.randn_like(z)
        (gradient,) = torch.autograd.grad(z, x, w, retain_graph=True)
        moved = self.model(self.x + _DIFFERENCE * gradient)
        penalty = 2 * _WEIGHT / _DIFFERENCE * ((moved - z) * w).sum() / len(x)
        return F.cross_entropy(z, self.y) + penalty

    def _DataGrad_recomputed(self, step: Tensor) -> Tensor:  # noqa: N802 - the variant's name
        if not isinstance(self.model, nn.Sequential):
            raise UnsupportedError("recomputation by parts is written for nn.Sequential")
        parts = max(1, round(len(self.model) ** 0.5))
        model = lambda x: checkpoint_sequential(self.model, parts, x, use_reentrant=False)  # noqa: E731
        total: Tensor = gradreg.loss(model, self.x, self.y, gradreg.DataGrad(1.0), step=step)[0]
        return total


def _identifier(name: str) -> str:
    return name.replace(" ", "_").replace("(", "_").replace(")", "")


class _Residual(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.out = nn.Linear(channels, 3 * channels, bias=False), nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, channels = x.shape
        parts = self.inputs(x).reshape(batch, time, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind()
        scores = query @ key.transpose(2, 3) * (channels // self.heads) ** -0.5
        mixed: Tensor = self.out((scores.softmax(-1) @ value).transpose(1, 2).reshape(batch, time, channels))
        return mixed


def _modules(layers: tuple[nets.Layer, ...], shape: nets.Shape) -> list[nn.Module]:
    """PyTorch's own layers, channels first; `shape` is that of a sample with the channels last."""
    found: list[nn.Module] = []
    for layer in layers:
        found.append(_module(layer, shape))
        shape = layer.output_shape(shape)
    return found


def _module(layer: nets.Layer, shape: nets.Shape) -> nn.Module:
    match layer:
        case nets.Dense():
            return nn.Linear(shape[-1], layer.units, layer.bias)
        case nets.Conv2D():
            return nn.Conv2d(
                shape[-1], layer.filters, layer.kernel, padding=layer.kernel // 2 if layer.padding == "same" else 0
            )
        case nets.MaxPool():
            return nn.MaxPool2d(layer.size)
        case nets.AvgPool():
            return nn.AvgPool2d(layer.size)
        case nets.Flatten():
            return nn.Flatten()
        case nets.Activation():
            return _ACTIVATIONS[layer.kind]()
        case GroupNorm():
            return nn.GroupNorm(layer.groups, shape[-1], layer.eps)
        case nets.BatchNorm():
            return nn.BatchNorm2d(shape[-1], layer.eps)
        case nets.LayerNorm():
            return nn.LayerNorm(shape[-1], layer.eps)
        case nets.Attention():
            return _Attention(shape[-1], layer.heads)
        case nets.Residual():
            return _Residual(*_modules(layer.layers, shape))
    raise UnsupportedError(f"bench: {layer!r} has no counterpart in PyTorch here.")
