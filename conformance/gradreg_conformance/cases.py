"""One example of a check as a small value: its repr is the code that makes it, its arrays follow from its seed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np

import gradreg_numpy
from gradreg_core.portable.networks import Activation, MaxPool, Network, Residual
from gradreg_core.spec import Regularizer

__all__ = ["Case", "Data", "Squared", "kink_margin", "rounded", "squared"]


@dataclass(frozen=True, repr=False)
class Case:
    """A network, a batch, a regularizer and the options of the call.

    Args:
        network: portable; its weights, the inputs and the labels are drawn by NumPy from `seed`.
        reg: the regularizer.
        batch: the number of samples B.
        seed: of the data.
        step: of the call.
        draw_seed: `seed` of the call, in place of the regularizer's own, or None.
        dtype: of the arithmetic; weights and inputs are rounded to it before anything is computed.
        ids: the samples' global numbers, or None for 0..B-1.
        sample_weight: one number per sample, or None.
        normalizer: the divisor in place of the sum of the sample weights, or None.
        labels: "classes", "distribution" (probabilities of the outputs' shape), or "none".
        directions: the shape of the directions given in the call: None (none), "shared" (m,), "sample" (B, m) or
            "rows" (2, B, m).
        chunk_size: of the call.
        class_axis: of the call.
        loss: "cross_entropy", or "squared": one half of the squared difference to the labels as real targets.
    """

    network: Network
    reg: Regularizer
    batch: int = 2
    seed: int = 0
    step: int = 0
    draw_seed: int | None = None
    dtype: str = "float64"
    ids: tuple[int, ...] | None = None
    sample_weight: tuple[float, ...] | None = None
    normalizer: float | None = None
    labels: str = "classes"
    directions: str | None = None
    chunk_size: int | None = None
    class_axis: int | None = None
    loss: str = "cross_entropy"

    def __repr__(self) -> str:
        """The call that makes the case, defaults left out."""
        chosen = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name in ("network", "reg") or getattr(self, field.name) != field.default
        ]
        return f"Case({', '.join(chosen)})"

    @property
    def data(self) -> "Data":
        """The arrays of the case; the same object for equal data."""
        return _data(
            self.network, self.batch, self.seed, self.dtype, self.labels, self.directions, self.loss, self.class_axis
        )

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the call that are plain values, without those left at None."""
        given = {
            "step": self.step,
            "seed": self.draw_seed,
            "sample_ids": self.ids,
            "sample_weight": self.sample_weight,
            "normalizer": self.normalizer,
            "chunk_size": self.chunk_size,
            "class_axis": self.class_axis,
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Data:
    """Arrays in float64 that hold numbers of the case's dtype."""

    params: Mapping[str, np.ndarray]
    """Weights and statistics by path."""
    x: np.ndarray
    """(B, *input_shape)."""
    y: np.ndarray | None
    """Integer labels (B, ...), or probabilities or real targets of the outputs' shape."""
    directions: np.ndarray | None

    def model(self, network: Network) -> gradreg_numpy.Model:
        """The reference model."""
        return gradreg_numpy.Model(network, dict(self.params))


def squared(z: Any, y: Any) -> Any:
    """1/2 (z - y)^2, element by element, in any framework's arrays."""
    return 0.5 * (z - y) ** 2


class Squared:
    """The same for the reference, with its gradient; see :class:`gradreg_numpy.batch.LossFunction`."""

    def value(self, z: np.ndarray, y: Any) -> Any:
        """Losses of the shape of z."""
        return squared(z, y)

    def gradient(self, z: np.ndarray, y: Any) -> np.ndarray:
        """dM_i/dz_i, M_i being the mean over the components of a sample."""
        return np.asarray((z - y) / z[0].size)


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` rounded to `dtype`, in float64."""
    if dtype == "bfloat16":  # to the upper half of a float32, ties away from zero: any such number will do
        words = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((words + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return values.astype(dtype).astype(np.float64)


@lru_cache(maxsize=4096)
def _data(
    network: Network,
    batch: int,
    seed: int,
    dtype: str,
    labels: str,
    directions: str | None,
    loss: str,
    class_axis: int | None = None,
) -> Data:
    rng = np.random.default_rng([seed, batch])
    # Biases, scales of norms and variances away from 0 and 1, where much that is wrong does not show.
    params = {
        path: value + 0.3 * rng.normal(size=value.shape)
        if path in network.weights()
        else np.exp(0.2 * rng.normal(size=value.shape))
        for path, value in gradreg_numpy.initialize(network, seed).items()
    }
    x = rng.normal(size=(batch, *network.input_shape))
    own = network.output_shape
    size = math.prod(own)
    axis = len(own) - 1 if class_axis is None else class_axis - 1 if class_axis > 0 else class_axis + len(own)
    classes, without = own[axis], (batch, *own[:axis], *own[axis + 1 :])
    y: np.ndarray | None = None
    if loss == "squared":
        y = rounded(rng.normal(size=(batch, *own)), dtype)
    elif labels == "distribution":
        y = np.moveaxis(rng.dirichlet(np.ones(classes), size=without), -1, axis + 1)
    elif labels == "classes":
        y = rng.integers(0, max(2, classes), size=without)
    shapes = {"shared": (size,), "sample": (batch, size), "rows": (2, batch, size)}
    given = None if directions is None else rounded(rng.normal(size=shapes[directions]), dtype)
    return Data({path: rounded(value, dtype) for path, value in params.items()}, rounded(x, dtype), y, given)


@lru_cache(maxsize=4096)
def kink_margin(network: Network, batch: int, seed: int) -> float:
    """The least distance of anything that a rectifier or a maximum sees from its kink; infinite without any."""
    data = _data(network, batch, seed, "float64", "none", None, "cross_entropy")
    return _margin(network.layers, "", network.input_shape, dict(data.params), data.x)


def _margin(
    layers: tuple[Any, ...], prefix: str, shape: tuple[int, ...], params: dict[str, Any], x: np.ndarray
) -> float:
    least = math.inf
    for index, layer in enumerate(layers):
        path = f"{prefix}{index}"
        if isinstance(layer, Residual):
            least = min(least, _margin(layer.layers, f"{path}.", shape, params, x))
        elif isinstance(layer, Activation) and layer.kind in ("relu", "leaky_relu"):
            least = min(least, float(np.abs(x).min()))
        elif isinstance(layer, MaxPool):
            rows, columns, _ = layer.output_shape(shape)
            size = layer.size
            windows = x[:, : rows * size, : columns * size].reshape(len(x), rows, size, columns, size, -1)
            ordered = np.sort(np.moveaxis(windows, 2, 3).reshape(len(x), rows, columns, size * size, -1), axis=3)
            if size > 1:
                least = min(least, float((ordered[:, :, :, -1] - ordered[:, :, :, -2]).min()))
        local = {f"0{name[len(path) :]}": value for name, value in params.items() if name.startswith(f"{path}.")}
        x = gradreg_numpy.apply(Network(shape, (layer,)), local, x)
        shape = layer.output_shape(shape)
    return least
