"""Trains any backend that declares a harness: its calls and gradients, and Adam in NumPy. Correct, and slow."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gradreg_conformance.harness import Harness
from gradreg_core.errors import UnsupportedError
from gradreg_core.portable.networks import Network
from gradreg_experiments.plan import Masks, Plan, Steps, Trained
from gradreg_experiments.trainers.trainer import Tick, Trainer, silent

__all__ = ["GenericTrainer"]

Arrays = Mapping[str, Any]
_BETAS = 0.9, 0.999
_EPSILON = 1e-8


class GenericTrainer(Trainer):
    """See :class:`gradreg_experiments.trainers.trainer.Trainer`.

    Args:
        harness: the backend's harness; its first mode and device are used.
    """

    def __init__(self, harness: Harness) -> None:
        if not harness.any_callable:
            raise UnsupportedError(f"train: the models of {type(harness).__name__} have no dropout masks.")
        self.harness = harness

    def train(self, plan: Plan, tick: Tick = silent) -> Trained:
        """Train with Adam.

        Raises:
            UnsupportedError: the harness lacks the plan's dtype, or a dropout layer is in a residual block.
        """
        if plan.dtype not in self.harness.dtypes:
            dtypes = ", ".join(self.harness.dtypes)
            raise UnsupportedError(f"train: expected a dtype of the harness ({dtypes}), got {plan.dtype}.")
        params = {path: np.array(value, plan.dtype) for path, value in plan.params.items()}
        moments = {path: [np.zeros(shape), np.zeros(shape)] for path, shape in plan.network.weights().items()}
        losses = []
        with self.harness.session():
            for steps in plan.chunks():
                for index in range(len(steps.numbers)):
                    value, gradients = self._gradients(plan, params, steps, index)
                    losses.append(value)
                    _update(params, gradients, moments, float(steps.rates[index]), int(steps.numbers[index]) + 1)
                tick(len(steps.numbers))
        return Trained(params, np.array(losses))

    def logits(self, network: Network, params: Arrays, x: Any) -> Any:
        with self.harness.session():
            outputs = self.harness.apply(network, self._arrays(params), self._array(x))
            return self.harness.numpy(outputs)

    def input_gradient(self, network: Network, params: Arrays, x: Any, y: Any) -> Any:
        with self.harness.session():
            native, labels = self._arrays(params), self._array(y)

            def mean(arrays: Arrays) -> Any:
                model = lambda inputs: self.harness.apply(network, native, inputs)  # noqa: E731
                return self.harness.calls.loss(model, arrays["x"], labels, None)[0]

            _, gradients = self.harness.value_and_gradients(mean, {"x": self._array(x)}, self.harness.modes[0])
            return len(y) * self.harness.numpy(gradients["x"])

    def jacobian_norms(self, network: Network, params: Arrays, x: Any) -> Any:
        with self.harness.session():
            native = self._arrays(params)
            model = lambda inputs: self.harness.apply(network, native, inputs)  # noqa: E731
            return self.harness.numpy(self.harness.calls.measure(model, self._array(x)).frobenius)

    def _gradients(self, plan: Plan, params: Arrays, steps: Steps, index: int) -> tuple[float, dict[str, Any]]:
        """The total of one step, and its gradients by path, in float64."""
        x, y = (values[steps.batches[index]] for values in (plan.x, plan.y))
        if plan.mixing is not None:
            share, others = steps.shares[index], steps.partners[index]
            x, y = share * x + (1 - share) * plan.x[others], share * y + (1 - share) * plan.y[others]
        inputs, labels = self._array(x, plan.dtype), self._array(y, plan.dtype if plan.soft else "int64")
        masks, apart_masks = (
            {path: self._array(values[index], plan.dtype) for path, values in arrays.items()}
            for arrays in (steps.masks, steps.apart_masks)
        )
        native, step = self._arrays(params), int(steps.numbers[index])

        def total(weights: Any) -> Any:
            options = {"step": step, "batch_norm": "allow"}
            model = _Dropout(self.harness, plan.network, native | weights, masks)
            value, _ = self.harness.calls.loss(
                model, inputs, labels, plan.reg, params=weights, loss_fn=plan.loss_fn, **options
            )
            if plan.apart is not None:
                model = _Dropout(self.harness, plan.network, native | weights, apart_masks)
                value = value + self.harness.calls.penalty(model, inputs, labels, plan.apart, **options)
            return plan.scale * value

        weights = {path: native[path] for path in plan.network.weights()}
        value, gradients = self.harness.value_and_gradients(total, weights, self.harness.modes[0])
        return float(self.harness.numpy(value)), {path: self.harness.numpy(gradients[path]) for path in weights}

    def _arrays(self, params: Arrays) -> dict[str, Any]:
        return {path: self._array(value) for path, value in params.items()}

    def _array(self, values: Any, dtype: str = "") -> Any:
        values = np.asarray(values)
        return self.harness.array(values, dtype or str(values.dtype), self.harness.devices[0])


class _Dropout:
    """A portable network with dropout; a harness runs the layers between the masks.

    Args:
        harness: the backend's harness.
        network: the description.
        params: weights and statistics by path, the backend's arrays.
        masks: masks by path, the backend's arrays.
    """

    def __init__(self, harness: Harness, network: Network, params: Arrays, masks: Arrays) -> None:
        if any("." in path for path in masks):
            raise UnsupportedError("train: the generic trainer has no dropout inside a residual block.")
        self.harness, self.network, self.params, self.rows = harness, network, params, Masks(masks)

    def __call__(self, x: Any) -> Any:
        start, shape = 0, self.network.input_shape
        masks: dict[int, Any] = {int(path): rows for path, rows in self.rows.next(x.shape[0]).items()}
        for stop in (*sorted(masks), len(self.network.layers)):
            part = Network(shape, self.network.layers[start:stop])
            if part.layers:
                x = self.harness.apply(part, _renumbered(self.params, start, stop), x)
            if stop in masks:
                x = x * masks[stop]
            start, shape = stop, part.output_shape
        return x


def _renumbered(params: Arrays, start: int, stop: int) -> dict[str, Any]:
    """The arrays of the layers from `start` up to `stop`, by their paths in a network of only these."""
    paths = {path: path.partition(".") for path in params}
    return {
        f"{int(head) - start}.{rest}": params[path]
        for path, (head, _, rest) in paths.items()
        if start <= int(head) < stop
    }


def _update(params: dict[str, Any], gradients: Arrays, moments: dict[str, Any], rate: float, time: int) -> None:
    """One step of Adam; `time` counts from 1."""
    for path, gradient in gradients.items():
        first, second = moments[path]
        first += (1 - _BETAS[0]) * (gradient - first)
        second += (1 - _BETAS[1]) * (gradient * gradient - second)
        unbiased = first / (1 - _BETAS[0] ** time), second / (1 - _BETAS[1] ** time)
        moved = params[path] - rate * unbiased[0] / (np.sqrt(unbiased[1]) + _EPSILON)
        params[path] = moved.astype(params[path].dtype)
