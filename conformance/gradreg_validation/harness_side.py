"""One side of a validation over the harness of a backend, if its description names no side of its own."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gradreg_core.errors import InputTypeError, UnsupportedError
from gradreg_core.plugins.dispatch import load_component
from gradreg_validation.models import Arrays, Evaluation, Side, goals

__all__ = ["HarnessSide"]

_INPUT = "input"


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
            return lambda x: self.model(self._arranged(x))
        return lambda x: self.model[0](params, self._arranged(x))

    def evaluate(self, x: np.ndarray, changed: Arrays) -> Evaluation:
        def forward(arrays: Mapping[str, Any]) -> tuple[Any, Any, list[Any]]:
            params = {name.partition(":")[2]: array for name, array in arrays.items() if name != _INPUT}
            return self._forward(self._bound(params), arrays[_INPUT], params or None)

        with self.harness.session():
            arrays = {f"parameter:{name}": array for name, array in self._natives(changed).items()}
            arrays[_INPUT] = self._native(x)
            outputs, loss, penalties = forward(arrays)
            by_input, by_parameter = {}, {}
            for name in goals(loss, penalties):
                _, gradients = self.harness.value_and_gradients(
                    lambda arrays, name=name: goals(*forward(arrays)[1:])[name], arrays, self.harness.modes[0]
                )
                hosted = {key.partition(":")[2]: self._host(gradient) for key, gradient in gradients.items()}
                by_input[name] = hosted.pop("")
                by_parameter[name] = hosted
            host_loss = None if loss is None else self._host(loss)
            return Evaluation(self._host(outputs), host_loss, tuple(map(self._host, penalties)), by_input, by_parameter)

    def activations(self, x: np.ndarray, changed: Arrays, names: Sequence[str]) -> Arrays:
        first = (self._natives(changed),) if isinstance(self.model, tuple) else ()
        return {name: array for name, array in self._staged(x, first).items() if name in names}
