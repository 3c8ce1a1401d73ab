"""One side of a validation over the harness of a backend, if its description names no side of its own."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from gradreg_core.errors import InputTypeError, UnsupportedError
from gradreg_core.plugins.dispatch import load_component
from gradreg_validation.batch import Arrays
from gradreg_validation.models import Evaluation, Side, goals, joined
from gradreg_validation.recording import Step

__all__ = ["HarnessSide"]


class HarnessSide(Side):
    """A function of x, or a pair (fn, params) with ``fn(params, x)`` and params a dict of arrays.

    The harness differentiates one scalar at a time, so a model is called once per scalar.
    """

    def _open(self) -> None:
        self.harness = load_component(self.backend, "harness")()
        if not self.harness.any_callable:
            raise UnsupportedError(
                f"the backend {self.backend!r} does not take any function as a model; name another with backends=."
            )
        if "float32" not in self.harness.dtypes:
            self.dtype = "float64"
        if isinstance(self.model, tuple):
            params = self.model[1] if len(self.model) == 2 and callable(self.model[0]) else None
            if not isinstance(params, Mapping):
                raise InputTypeError(f"a model is a function of x or a pair (fn, dict of arrays), got {self.model!r}.")
            self.values = {str(name): self._host(array) for name, array in params.items()}

    def _native(self, array: np.ndarray) -> Any:
        return self.harness.array(array, str(array.dtype), self.harness.devices[0])

    def _host(self, array: Any) -> np.ndarray:
        return np.asarray(array if isinstance(array, np.ndarray) else self.harness.numpy(array))

    def _transpose(self, x: Any, axes: tuple[int, ...]) -> Any:
        order = list(range(len(axes)))
        for place, axis in enumerate(axes):
            x = self.calls.backend.moveaxis(x, order.index(axis), place)
            order.remove(axis)
            order.insert(place, axis)
        return x

    def _natives(self, changed: Arrays) -> dict[str, Any]:
        return {name: self._native(array) for name, array in {**self.values, **changed}.items()}

    def _bound(self, params: Mapping[str, Any]) -> Callable[[Any], Any]:
        if not isinstance(self.model, tuple):
            return self._pass(self.model)
        return self._pass(lambda *args, **kwargs: self.model[0](params, *args, **kwargs))

    def evaluate(self, x: Arrays, changed: Arrays) -> Evaluation:
        fixed = {path: self._native(array) for path, array in x.items() if path not in self.problem.batch.floating}

        def forward(arrays: Mapping[str, Any]) -> tuple[Any, Any, list[Any], Any]:
            params = {name.partition(":")[2]: array for name, array in arrays.items() if name.startswith("parameter:")}
            moving = {name.partition(":")[2]: array for name, array in arrays.items() if name.startswith("input:")}
            natives = {path: moving[path] if path in moving else fixed[path] for path in x}
            return self._forward(self._bound(params), self._packed(natives), params or None)

        with self.harness.session():
            arrays = {f"parameter:{name}": array for name, array in self._natives(changed).items()}
            arrays |= {f"input:{path}": self._native(x[path]) for path in self.problem.batch.floating}
            outputs, loss, penalties, probe = forward(arrays)
            by_input, by_parameter = {}, {}
            for name in goals(loss, penalties, probe):
                _, gradients = self.harness.value_and_gradients(
                    lambda arrays, name=name: goals(*forward(arrays)[1:])[name], arrays, self.harness.modes[0]
                )
                hosted = {key: self._host(gradient) for key, gradient in gradients.items()}
                by_input[name] = joined([hosted[key] for key in hosted if key.startswith("input:")])
                by_parameter[name] = {
                    key.partition(":")[2]: array for key, array in hosted.items() if key.startswith("parameter:")
                }
            host_loss = None if loss is None else self._host(loss)
            hosted_outputs = {path: self._host(output) for path, output in outputs.items()}
            return Evaluation(hosted_outputs, host_loss, tuple(map(self._host, penalties)), by_input, by_parameter)

    def record(self, x: Arrays, changed: Arrays) -> list[Step]:
        first = (self._natives(changed),) if isinstance(self.model, tuple) else ()
        return self._staged(x, first)
