"""Training steps over the harness of a backend, for backends without training steps in their description."""

from collections.abc import Callable
from typing import Any

import numpy as np

from gradreg_bench.steps import Model, Steps, Total, network_arrays
from gradreg_bench.variants import Variant
from gradreg_core.errors import InputError, UnsupportedError
from gradreg_core.plugins.dispatch import load_component
from gradreg_core.portable.networks import Network

__all__ = ["HarnessSteps"]


class HarnessSteps(Steps):
    """Steps of a pair (function of (params, x), dict of arrays).

    The gradients come from the harness, in its first mode, and the baselines use the backend's primitives.
    """

    modes = ("harness",)

    def __init__(self, backend: str, model: Any, x: Any, y: Any, mode: str) -> None:
        super().__init__(backend, model, x, y, mode)
        self.harness = load_component(backend, "harness")()
        if not self.harness.any_callable:
            raise UnsupportedError(f"bench: the backend {backend!r} does not accept arbitrary functions as models.")
        if not isinstance(model, tuple):
            raise InputError(f"bench: {backend}: expected a pair (function of (params, x), params), got {model!r}.")
        dtype = "float32" if "float32" in self.harness.dtypes else self.harness.dtypes[0]
        self.apply, params = model
        self.x = self._array(x, dtype)
        self.y = self._array(y, "int32" if np.ndim(y) == 1 else dtype)
        self.params = {name: self._array(value, dtype) for name, value in params.items()}
        self.ops = self.calls.backend

    @classmethod
    def of_network(cls, backend: str, network: Network, batch: int, mode: str) -> "HarnessSteps":
        arrays, x, y = network_arrays(network, batch)
        trained = {path: arrays.pop(path) for path in network.weights()}
        steps = cls(backend, (None, trained), x, y, mode)
        fixed = {path: steps._array(value, "float32") for path, value in arrays.items()}
        steps.apply = lambda params, x: steps.harness.apply(network, fixed | dict(params), x)
        return steps

    def _array(self, value: Any, dtype: str) -> Any:
        """A NumPy array as the framework's own; other arrays unchanged."""
        return self.harness.array(value, dtype, self.harness.devices[0]) if isinstance(value, np.ndarray) else value

    def forward(self, x: Any) -> Any:
        return self.apply(self.params, x)

    def prepare(self, total: Total, variant: Variant) -> Callable[[int], Any]:
        def run(number: int) -> Any:
            def value(params: Any) -> Any:
                return total(lambda x: self.apply(params, x), list(params.values()), self.x, number)

            return self.harness.value_and_gradients(value, self.params, self.harness.modes[0])

        return run

    def loss(self, z: Any) -> Any:
        labels = self._array(np.eye(z.shape[-1], dtype=str(z.dtype)), self.ops.dtype(z))
        return -self.sum(self.ops.log_softmax(z) * self.ops.take(labels, self.y)) / len(self.x)

    def vjp(self, model: Model, x: Any, *, differentiable: bool = True) -> tuple[Any, Model]:
        return self.ops.vjp(model, x)

    def normal(self, z: Any, step: Any) -> Any:
        return self._array(np.random.default_rng(step).normal(size=tuple(z.shape)), self.ops.dtype(z))

    def difference(self, z: Any) -> Any:
        labels = self._array(np.eye(z.shape[-1], dtype=str(z.dtype)), self.ops.dtype(z))
        return self.ops.softmax(z) - self.ops.take(labels, self.y)

    def row(self, z: Any, index: int) -> Any:
        return self._array(np.eye(z.shape[-1])[[index] * z.shape[0]], self.ops.dtype(z))

    def sum(self, array: Any) -> Any:
        return self.ops.sum(self.ops.reshape(array, (-1,)), 0)

    def stop_gradient(self, array: Any) -> Any:
        return self.ops.stop_gradient(array)
