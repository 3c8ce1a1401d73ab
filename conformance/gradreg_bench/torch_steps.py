"""Training steps in PyTorch: forward and backward pass."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint_sequential

from gradreg_bench.steps import Model, Steps, Total
from gradreg_bench.variants import PLAIN, Variant
from gradreg_core.errors import InputError, UnsupportedError
from gradreg_core.portable import networks as nets
from gradreg_torch.devices import devices

__all__ = ["TorchSteps"]

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def _tensor(value: Any) -> Any:
    """A NumPy array as a tensor, floats in float32; other values unchanged."""
    if not isinstance(value, np.ndarray):
        return value
    return torch.tensor(value, dtype=torch.float32 if value.dtype.kind == "f" else None)


class TorchSteps(Steps):
    """The steps of a module. In the mode "compile", inductor compiles the loss function."""

    modes = ("eager", "compile")

    def __init__(self, backend: str, model: nn.Module, x: Any, y: Any, mode: str) -> None:
        super().__init__(backend, model, _tensor(x), _tensor(y), mode)
        self.params = list(model.parameters())
        self.bf16 = False

    @classmethod
    def of_network(cls, backend: str, network: nets.Network, batch: int, mode: str) -> "TorchSteps":
        """The network in PyTorch's own layers and layout."""
        torch.manual_seed(0)
        model = nn.Sequential(*_modules(network.layers, network.input_shape)).eval()
        shape = network.input_shape
        x = torch.randn(batch, *((shape[2], *shape[:2]) if len(shape) == 3 else shape))
        return cls(backend, model, x, torch.randint(network.output_shape[-1], (batch,)), mode)

    def first_share(self) -> float | None:
        """Counted by PyTorch: a plain step has (3 - f) times the operations of a forward pass."""
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as forward:
            loss = self.loss(self.model(self.x))
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        total = forward.get_total_flops()
        return None if total == 0 else min(1.0, max(0.0, 2 - backward.get_total_flops() / total))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x)

    @property
    def eager_model(self) -> Model:
        return self.model  # type: ignore[no-any-return]

    def operations(self, run: Callable[[], Any]) -> int | None:
        """On a GPU, also make PyTorch raise if anything in `run` waits for it."""
        cuda = self.x.is_cuda
        if cuda:
            torch.cuda.set_sync_debug_mode("error")
        try:
            with Launched() as mode:
                run()
        finally:
            if cuda:
                torch.cuda.set_sync_debug_mode("default")
        return mode.count

    def place(self, device: str, precision: str) -> None:
        known = devices()
        if device not in [name for one in known for name in (one.split()[0], one.split(":")[0])]:
            raise InputError(f"bench: --device {device}: PyTorch sees {', '.join(known)} here. Choose one of these.")
        self.model, self.x, self.y = self.model.to(device), self.x.to(device), self.y.to(device)
        self.params = list(self.model.parameters())
        self.bf16 = precision == "bf16"
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"

    def peak_memory(self, step: Callable[[int], Any]) -> int | None:
        if not self.x.is_cuda:
            return super().peak_memory(step)
        step(0)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(0)
        return torch.cuda.max_memory_allocated() - before

    def prepare(self, total: Total, variant: Variant) -> Callable[[int], Any]:
        def value(step: Any) -> Tensor:
            with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.bf16):
                return total(self.model, None, self.x, step)

        compiles = self.mode == "compile"  # a compiled program omits the penalty only if the step is an int
        if compiles:
            if variant.reg is None and variant.name != PLAIN:
                raise UnsupportedError("autograd.grad does not compile")
            value = torch.compile(value)

        def run(number: int) -> None:
            for param in self.params:
                param.grad = None
            value(number if compiles else torch.tensor(number)).backward()
            if self.x.is_cuda:
                torch.cuda.synchronize()

        return run

    def loss(self, z: Tensor) -> Tensor:
        return F.cross_entropy(z, self.y)

    def vjp(self, model: Model, x: Tensor, *, differentiable: bool = True) -> tuple[Tensor, Model]:
        x = x.detach().requires_grad_()
        z = model(x)
        return z, lambda w: torch.autograd.grad(z, x, w, retain_graph=True, create_graph=differentiable)[0]

    def normal(self, z: Tensor, step: Tensor) -> Tensor:
        return torch.randn_like(z)

    def difference(self, z: Tensor) -> Tensor:
        return z.softmax(-1) - F.one_hot(self.y, z.shape[-1])

    def row(self, z: Tensor, index: int) -> Tensor:
        v = torch.zeros_like(z)
        v[:, index] = 1
        return v

    def sum(self, array: Tensor) -> Tensor:
        return array.sum()

    def stop_gradient(self, array: Tensor) -> Tensor:
        return array.detach()

    def jacobian(self, model: Model, x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.jacrev(lambda sample: model(sample[None])[0]))(x)

    def checkpointed(self, model: Model) -> Model:
        if not isinstance(model, nn.Sequential):
            raise UnsupportedError("recomputation by parts is written for nn.Sequential")
        parts = max(1, round(len(model) ** 0.5))
        return lambda x: checkpoint_sequential(model, parts, x, use_reentrant=False)

    def _backward_per_projection(self, model: Model, params: Any, x: Tensor, step: Tensor) -> Tensor:
        z, pullback = self.vjp(model, x)
        for index in range(z.shape[1]):
            self._penalty(pullback(self.row(z, index))).backward(retain_graph=True)
        return self.loss(z)


class Launched(TorchDispatchMode):
    """Counts the computing operations inside; views launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


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
    """PyTorch's own layers, channels first; `shape` is a sample's, with the channels last."""
    modules: list[nn.Module] = []
    for layer in layers:
        modules.append(_module(layer, shape))
        shape = layer.output_shape(shape)
    return modules


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
        case nets.GroupNorm():
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
