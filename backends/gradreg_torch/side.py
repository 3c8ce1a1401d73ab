"""One side of a validation in PyTorch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from gradreg_validation.models import Arrays, Evaluation, Side, goals, unsupported

__all__ = ["TorchSide"]


class TorchSide(Side):
    """An nn.Module, called functionally with copies of its arrays, or a plain function."""

    def _open(self) -> None:
        model = getattr(self.model, "_orig_mod", self.model)  # what torch.compile wraps
        self.module = model if isinstance(model, torch.nn.Module) else None
        self.device: torch.device | str = "cpu"
        if self.module is None:
            return
        self.trained = dict(self.module.named_parameters())
        self.arrays = {**self.trained, **dict(self.module.named_buffers())}
        self.values = {name: self._host(array) for name, array in self.arrays.items() if array.is_floating_point()}
        self.layer_kinds = {name: type(module).__name__ for name, module in self.module.named_modules() if name}
        self.device = next((array.device for array in self.arrays.values()), self.device)

    def warnings(self) -> list[str]:
        modules = () if self.module is None else self.module.modules()
        kinds = {type(module).__name__ for module in modules if module.training}
        modes = sorted(kind for kind in kinds if kind.startswith(("BatchNorm", "Dropout", "InstanceNorm")))
        return [f"{', '.join(modes)} in training mode; call eval() unless the other model trains too"] if modes else []

    def _native(self, array: np.ndarray) -> Any:
        integer = np.issubdtype(array.dtype, np.integer)
        return torch.tensor(array, device=self.device, dtype=torch.int64 if integer else None)

    def _host(self, array: Any) -> np.ndarray:
        if array.dtype == torch.bfloat16:  # which NumPy does not have
            raise unsupported(["bfloat16"])
        return np.array(array.detach().cpu().numpy())

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        return x.permute(axes)

    @contextmanager
    def kept(self) -> Iterator[None]:
        with torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
            yield

    def _copies(self, changed: Arrays) -> dict[str, Any]:
        if self.module is None:
            return {}
        return {
            name: self._native(changed[name]).to(array.dtype) if name in changed else array.detach().clone()
            for name, array in self.arrays.items()
        }

    def _bound(self, copies: dict[str, Any]) -> Callable[[Any], Any]:
        module = self.module
        if module is None:
            return lambda x: self.model(self._arranged(x))
        return lambda x: torch.func.functional_call(module, copies, (self._arranged(x),))

    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        copies = self._copies(changed)
        leaves = {name: copy.requires_grad_() for name, copy in copies.items() if name in self.trained}
        native = self._native(x).requires_grad_()
        outputs, loss, penalties = self._forward(self._bound(copies), native, leaves if copies else None)
        by_input, by_parameter = {}, {}
        for name, goal in goals(loss, penalties).items():
            by_input[name], *gradients = self._gradients(goal, [native, *leaves.values()])
            by_parameter[name] = dict(zip(leaves, gradients, strict=True))
        host_loss = None if loss is None else self._host(loss)
        return Evaluation(self._host(outputs), host_loss, tuple(map(self._host, penalties)), by_input, by_parameter)

    def _gradients(self, goal: Any, leaves: list[Any]) -> list[np.ndarray]:
        if not goal.requires_grad:
            return [np.zeros(tuple(leaf.shape)) for leaf in leaves]
        gradients = torch.autograd.grad(goal, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        return [self._host(gradient) for gradient in gradients]

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        if self.module is None or self.stages is not None:
            return super().activations(x, changed, names)
        kept: Arrays = {}

        def keeper(name: str) -> Callable[..., None]:
            def keep(module: Any, inputs: Any, output: Any) -> None:
                if isinstance(output, torch.Tensor):
                    kept.setdefault(name, self._host(output))

            return keep

        modules = dict(self.module.named_modules())
        hooks = [modules[name].register_forward_hook(keeper(name)) for name in names]
        try:
            self._bound(self._copies(changed))(self._native(x))
        finally:
            for hook in hooks:
                hook.remove()
        return kept
