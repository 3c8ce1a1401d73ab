"""How the conformance kit drives the PyTorch backend."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from gradreg_conformance.harness import Harness, OwnModel
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.portable import networks as nets
from gradreg_torch.networks import apply
from gradreg_torch.versions import COMPILES

__all__ = ["TorchHarness"]

Arrays = Mapping[str, torch.Tensor]
Function = Callable[[Arrays], torch.Tensor]


class _Layer(nn.Module):
    """One layer of a portable network, with arrays that belong to the network."""

    def __init__(self, network: nets.Network, index: int, arrays: Arrays) -> None:
        super().__init__()
        self.network = nets.Network(network.input_shape, network.layers[index : index + 1])
        # In the layer's own network the layer has index 0.
        self.arrays = {
            f"0{path[len(str(index)) :]}": arrays[path] for path in arrays if path.split(".")[0] == str(index)
        }

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return apply(self.network, self.arrays, x)


class _Part(nn.Module):
    """A part of a model that shares its matrix."""

    def __init__(self, matrix: nn.Parameter) -> None:
        super().__init__()
        self.matrix = matrix


class _Own(nn.Module):
    """The model of `TorchHarness.own_model`."""

    passes: torch.Tensor

    def __init__(self, trained: torch.Tensor, frozen: torch.Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(trained)
        self.part = _Part(self.matrix)
        self.frozen = nn.Parameter(frozen, requires_grad=False)
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.passes += 1
        z = x @ self.matrix @ self.part.matrix @ self.frozen
        return z * (0.5 * nn.functional.dropout(torch.ones_like(z), 0.5, self.training))


class TorchHarness(Harness):
    """See :class:`gradreg_conformance.harness.Harness`, which documents the methods.

    Modes: "eager"; "func", inside torch.func transforms; "compile", torch.compile(fullgraph=True) to ATen operations,
    from PyTorch 2.11 on.
    """

    modes = ("eager", "func", "compile") if COMPILES else ("eager", "func")
    layers = nets.LAYERS
    dtypes = ("float64", "float32", "float16", "bfloat16")

    def __init__(self) -> None:
        self.calls = load_backend("torch")
        self.devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
        self.versions = {"torch": torch.__version__}

    def array(self, values: np.ndarray, dtype: str, device: str) -> torch.Tensor:
        return torch.tensor(np.array(values), dtype=getattr(torch, dtype), device=device)

    def numpy(self, array: torch.Tensor) -> np.ndarray:
        array = array.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).numpy()

    def apply(self, network: nets.Network, arrays: Arrays, x: torch.Tensor) -> torch.Tensor:
        return apply(network, arrays, x)

    def parameter(self, array: torch.Tensor) -> nn.Parameter:
        return nn.Parameter(array)

    def named_model(self, network: nets.Network, arrays: Arrays) -> tuple[nn.Module, list[str]]:
        """A module with one submodule per layer of the network, and the submodules' names."""
        layers = [_Layer(network, index, arrays) for index in range(len(network.layers))]
        return nn.Sequential(*layers), [str(index) for index in range(len(layers))]

    def value(self, function: Function, arrays: Arrays, mode: str) -> torch.Tensor:
        if mode == "func":
            floats, others = _split(arrays)
            value: torch.Tensor = torch.func.vjp(lambda floats: function({**others, **floats}), floats)[0]
            return value
        return _in_mode(function, mode)(arrays)

    def value_and_gradients(
        self, function: Function, arrays: Arrays, mode: str
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        floats, others = _split(arrays)
        if mode == "func":
            gradients, value = torch.func.grad_and_value(lambda floats: function({**others, **floats}))(floats)
            return value, gradients
        leaves = {name: array.detach().requires_grad_() for name, array in floats.items()}
        value = _in_mode(function, mode)({**others, **leaves})
        if not value.requires_grad:
            return value, {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
        gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
        return value, dict(zip(leaves, gradients, strict=True))

    def own_model(self, trained: torch.Tensor, frozen: torch.Tensor) -> OwnModel:
        """A module; the mask is dropout's."""
        model = _Own(trained, frozen)
        return OwnModel(model, lambda: int(model.passes))

    def random_state(self) -> bytes:
        """That of the CPU's default generator."""
        return torch.get_rng_state().numpy().tobytes()

    def traces(self, array: torch.Tensor) -> tuple[bool, bool, bool]:
        """Whether it requires a gradient, has one, and was computed from others that do."""
        return array.requires_grad, array.is_leaf and array.grad is not None, array.grad_fn is not None

    def compiled(self, function: Function, mode: str) -> tuple[Function, Callable[[], int]] | None:
        """`function` compiled for many calls, and a count of its compilations."""
        if mode != "compile":
            return None
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        return torch.compile(function, fullgraph=True, backend=counter), lambda: counter.frame_count

    def no_gradient(self) -> AbstractContextManager[Any]:
        """The values, detached."""
        return torch.no_grad()

    def release(self) -> None:
        torch._dynamo.reset()


def _split(arrays: Arrays) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The floating-point arrays, which have gradients, and the others."""
    floats = {name: array for name, array in arrays.items() if array.is_floating_point()}
    return floats, {name: array for name, array in arrays.items() if name not in floats}


def _in_mode(function: Function, mode: str) -> Callable[[Arrays], torch.Tensor]:
    if mode != "compile":
        return function
    torch._dynamo.reset()
    compiled: Callable[[Arrays], torch.Tensor] = torch.compile(function, fullgraph=True, backend="aot_eager")
    return compiled
