"""Training steps of one model on one batch: the loss and the gradients of all parameters, without an optimizer.

The regularized steps call gradreg. The baselines are written here, with a few operations from each framework.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import numpy as np

from gradreg_bench.timing import peak_memory
from gradreg_bench.variants import Variant
from gradreg_core.errors import UnsupportedError
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.portable.networks import Network
from gradreg_core.presets import DataGrad
from gradreg_core.spec import Regularizer
from gradreg_numpy.networks import initialize

__all__ = ["PRECISIONS", "Model", "Steps", "Total", "network_arrays"]

_WEIGHT, _DIFFERENCE = 0.01, 0.01
PRECISIONS = {
    "float32": "products in float32, without TF32",
    "tf32": "products of float32 in TF32, on GPUs that have it",
    "bf16": "the forward pass under automatic mixed precision in bfloat16",
}
Model = Callable[[Any], Any]
Total = Callable[[Model, Any, Any, Any], Any]
"""A training loss as a function of (model, parameters, x, number of the step)."""


class Steps(ABC):
    """Steps of one model on one batch. `benchmark` in the description of a backend names its class.

    Args:
        backend: the backend's name.
        model: a model of the framework, such as the caller's factory returns.
        x: the inputs.
        y: the labels.
        mode: one of `modes`.
    """

    modes: ClassVar[tuple[str, ...]]
    """The modes of a step. The first is the default."""

    def __init__(self, backend: str, model: Any, x: Any, y: Any, mode: str) -> None:
        self.backend, self.model, self.x, self.y, self.mode = backend, model, x, y, mode
        self.calls = load_backend(backend)

    @classmethod
    @abstractmethod
    def of_network(cls, backend: str, network: Network, batch: int, mode: str) -> "Steps":
        """The steps of a network described in :mod:`gradreg_bench.networks`."""

    @property
    def outputs(self) -> int:
        """m, the number of outputs per sample."""
        return math.prod(self.forward(self.x[:1]).shape)

    def first_share(self) -> float | None:
        """The first layer's share of a forward pass, or None if it cannot be counted."""
        return None

    def step(self, variant: Variant) -> Callable[[int], Any]:
        """The step as a function of the step's number.

        Raises:
            UnsupportedError: the variant does not exist for this framework or mode.
        """
        if variant.reg is not None:
            whole = variant.reg
            prepared = cache(lambda reg: self.prepare(self._regularized(reg), variant))
            return (lambda number: prepared(whole.due(number))(number)) if variant.due else prepared(whole)
        baseline = getattr(self, "_" + re.sub(r"\W+", "_", variant.name).strip("_"), None)
        if baseline is None:
            raise UnsupportedError(f"not written for {self.backend}")
        return self.prepare(baseline, variant)

    def place(self, device: str, precision: str) -> None:
        """Move the model and the batch to a device, and choose the precision of products.

        Raises:
            UnsupportedError: the framework's steps run on the CPU in float32 only.
        """
        if (device, precision) != ("cpu", "float32"):
            raise UnsupportedError(
                f"bench: --device {device} --precision {precision}: the steps of {self.backend} run on the CPU in "
                f"float32 here. Omit both options."
            )

    def peak_memory(self, step: Callable[[int], Any]) -> int | None:
        """The peak memory of a step above the memory before it, in bytes; None if unknown."""
        return peak_memory(step)

    @property
    def eager_model(self) -> Model:
        """The model as an argument of `loss`, not compiled."""
        return self.forward

    def by_hand(self, reg: Regularizer | None) -> Callable[[], Any]:
        """The loss plus a row's penalty from the same forward pass, without gradreg and not compiled.

        The row is (f - y) for a penalty on the loss, and fixed noise for any other.
        """
        if reg is None:
            return lambda: self.loss(self.eager_model(self.x))
        noise = self.normal(self.forward(self.x), 0)
        on_loss = any(term.lower().output == "loss" for term in reg.terms)

        def run() -> Any:
            z, pullback = self.vjp(self.eager_model, self.x)
            return self.loss(z) + self._penalty(pullback(self.difference(z) if on_loss else noise))

        return run

    def operations(self, run: Callable[[], Any]) -> int | None:
        """The number of operations that `run` launches, without views; None if unknown."""
        return None

    # --- provided by a framework ---------------------------------------------------------------------------------
    @abstractmethod
    def forward(self, x: Any) -> Any:
        """The model's outputs."""

    @abstractmethod
    def prepare(self, total: Total, variant: Variant) -> Callable[[int], Any]:
        """A call that computes `total` and its gradients with respect to the parameters, compiled if the mode says so.

        It returns once the numbers are computed.
        """

    @abstractmethod
    def loss(self, z: Any) -> Any:
        """The mean cross-entropy of logits."""

    @abstractmethod
    def vjp(self, model: Model, x: Any, *, differentiable: bool = True) -> tuple[Any, Model]:
        """(z, pullback), with a pullback w -> J^T w that may be called again.

        Args:
            model: the model.
            x: its input.
            differentiable: whether J^T w will be differentiated.
        """

    @abstractmethod
    def normal(self, z: Any, step: Any) -> Any:
        """Gaussian noise of the shape of z."""

    @abstractmethod
    def row(self, z: Any, index: int) -> Any:
        """A basis vector per sample, of the shape of z."""

    @abstractmethod
    def difference(self, z: Any) -> Any:
        """F - y, the softmax of logits minus the labels."""

    @abstractmethod
    def sum(self, array: Any) -> Any:
        """The sum of all elements."""

    @abstractmethod
    def stop_gradient(self, array: Any) -> Any:
        """`array` as a constant."""

    def jacobian(self, model: Model, x: Any) -> Any:
        """The whole Jacobian, from the framework's own transformation."""
        raise UnsupportedError(f"not written for {self.backend}")

    def checkpointed(self, model: Model) -> Model:
        """The model with its activations recomputed in the backward pass."""
        raise UnsupportedError(f"not written for {self.backend}")

    # --- the steps -----------------------------------------------------------------------------------------------
    def _regularized(self, reg: Regularizer) -> Total:
        def total(model: Model, params: Any, x: Any, step: Any) -> Any:
            return self.calls.loss(model, x, self.y, reg, step=step, params=params, batch_norm="allow")[0]

        return total

    def _plain(self, model: Model, params: Any, x: Any, step: Any) -> Any:
        return self.loss(model(x))

    def _penalty(self, gradient: Any) -> Any:
        return _WEIGHT * self.sum(gradient**2) / len(self.x)

    def _separate_forward(self, model: Model, params: Any, x: Any, step: Any) -> Any:
        z, pullback = self.vjp(model, x)
        return self.loss(model(x)) + self._penalty(pullback(self.normal(z, step)))

    def _projection_loop(self, model: Model, params: Any, x: Any, step: Any) -> Any:
        z, pullback = self.vjp(model, x)
        total = self.loss(z)
        for index in range(z.shape[1]):
            total = total + self._penalty(pullback(self.row(z, index)))
        return total

    def _vmap_jacrev(self, model: Model, params: Any, x: Any, step: Any) -> Any:
        return self.loss(model(x)) + self._penalty(self.jacobian(model, x))

    def _gradient_difference(self, model: Model, params: Any, x: Any, step: Any) -> Any:
        z, pullback = self.vjp(model, x, differentiable=False)
        w = self.normal(z, step)
        moved = model(x + _DIFFERENCE * self.stop_gradient(pullback(w)))
        return self.loss(z) + 2 * _WEIGHT / _DIFFERENCE * self.sum((moved - z) * w) / len(self.x)

    def _DataGrad_recomputed(self, model: Model, params: Any, x: Any, step: Any) -> Any:  # noqa: N802 - the variant's name
        return self._regularized(DataGrad(1.0))(self.checkpointed(model), params, x, step)


def network_arrays(network: Network, batch: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """(weights and statistics by path, x, y) of a portable network, the same in all frameworks."""
    random = np.random.default_rng(0)
    arrays = {path: np.asarray(value, np.float32) for path, value in initialize(network, 0).items()}
    x = random.normal(size=(batch, *network.input_shape)).astype(np.float32)
    return arrays, x, random.integers(0, network.output_shape[-1], batch)
