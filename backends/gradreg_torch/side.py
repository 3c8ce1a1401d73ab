"""One side of a validation in PyTorch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel  # the fused kernels have no second derivative

from gradreg_validation.batch import Arrays
from gradreg_validation.keras_layers import called_with, is_keras, layers_of, recorded_layers
from gradreg_validation.models import Evaluation, Side, goals, joined, unsupported
from gradreg_validation.recording import Recorder, Step

__all__ = ["TorchSide"]


class TorchSide(Side):
    """An nn.Module, called functionally with copies of its arrays, or a plain function."""

    def _open(self) -> None:
        model = getattr(self.model, "_orig_mod", self.model)  # the module inside torch.compile
        self.module = model if isinstance(model, torch.nn.Module) and not is_keras(model) else None
        self.device: torch.device | str = "cpu"
        self.keras = model if is_keras(model) else None
        if self.keras is not None:
            self.layers = layers_of(self.keras)
            self._hold({v.path: v.value for v in model.trainable_variables}, {v.path: v.value for v in model.variables})
        if self.module is None:
            return
        self.layers = {name: module for name, module in self.module.named_modules() if name}
        trained = dict(self.module.named_parameters())
        self._hold(trained, {**trained, **dict(self.module.named_buffers())})

    def _hold(self, trained: dict[str, Any], arrays: dict[str, Any]) -> None:
        self.trained, self.arrays = trained, arrays
        self.values = {name: self._host(array) for name, array in self.arrays.items() if array.is_floating_point()}
        self.layer_kinds = {name: type(module).__name__ for name, module in self.layers.items()}
        self.device = next((array.device for array in self.arrays.values()), self.device)

    def warnings(self) -> list[str]:
        modules = () if self.module is None else self.module.modules()
        kinds = {type(module).__name__ for module in modules if module.training}
        modes = sorted(kind for kind in kinds if kind.startswith(("BatchNorm", "Dropout", "InstanceNorm")))
        return [f"{', '.join(modes)} in training mode; call eval() unless the other model trains too"] if modes else []

    def _native(self, array: np.ndarray) -> Any:
        integer = np.issubdtype(array.dtype, np.integer)
        return torch.tensor(np.asarray(array), device=self.device, dtype=torch.int64 if integer else None)

    def _host(self, array: Any) -> np.ndarray:
        if array.dtype == torch.bfloat16:  # which NumPy does not have
            raise unsupported(["bfloat16"])
        return np.array(array.detach().cpu().numpy())

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        return x.permute(axes)

    @contextmanager
    def kept(self) -> Iterator[None]:
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)  # it skips layers, whose activations would be missed
        try:
            with (
                torch.random.fork_rng(),
                torch.inference_mode(False),
                torch.enable_grad(),
                sdpa_kernel(SDPBackend.MATH),
            ):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)

    def _copies(self, changed: Arrays) -> dict[str, Any]:
        if self.module is None and self.keras is None:
            return {}
        return {
            name: self._native(changed[name]).to(array.dtype) if name in changed else array.detach().clone()
            for name, array in self.arrays.items()
        }

    def _bound(self, copies: dict[str, Any]) -> Callable[[Any], Any]:
        module = self.module
        if self.keras is not None:
            return self._pass(called_with(self.keras, copies))
        if module is None:
            return self._pass(self.model)
        return self._pass(lambda *args, **kwargs: torch.func.functional_call(module, copies, args, kwargs))

    def evaluate(self, x: Arrays, changed: Arrays) -> Evaluation:
        copies = self._copies(changed)
        leaves = {name: copy.requires_grad_() for name, copy in copies.items() if name in self.trained}
        natives = {path: self._native(array) for path, array in x.items()}
        moving = [natives[path].requires_grad_() for path in self.problem.batch.floating]
        model = self._bound(copies)
        outputs, loss, penalties, probe = self._forward(model, self._packed(natives), leaves if copies else None)
        by_input, by_parameter = {}, {}
        for name, goal in goals(loss, penalties, probe).items():
            gradients = self._gradients(goal, [*moving, *leaves.values()])
            by_input[name] = joined(gradients[: len(moving)])
            by_parameter[name] = dict(zip(leaves, gradients[len(moving) :], strict=True))
        host_loss = None if loss is None else self._host(loss)
        hosted = {path: self._host(output) for path, output in outputs.items()}
        return Evaluation(hosted, host_loss, tuple(map(self._host, penalties)), by_input, by_parameter)

    def _gradients(self, goal: Any, leaves: list[Any]) -> list[np.ndarray]:
        if not goal.requires_grad:
            return [np.zeros(tuple(leaf.shape)) for leaf in leaves]
        gradients = torch.autograd.grad(goal, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        return [self._host(gradient) for gradient in gradients]

    def record(self, x: Arrays, changed: Arrays) -> list[Step]:
        if self.stages is not None:
            return self._staged(x, ())
        recorder, modules = Recorder(self._hosted), {} if self.module is None else self.layers
        layers = {} if self.keras is None else self.layers

        def keeper(name: str) -> Callable[..., None]:
            return lambda module, args, kwargs, output: recorder.add(name, module, args, kwargs, output)

        hooks = [module.register_forward_hook(keeper(name), with_kwargs=True) for name, module in modules.items()]
        try:
            natives = {path: self._native(array) for path, array in x.items()}
            with self._tapped(recorder), recorded_layers(layers, recorder):
                self._bound(self._copies(changed))(self._packed_alone(natives))
        finally:
            for hook in hooks:
                hook.remove()
        return recorder.steps
