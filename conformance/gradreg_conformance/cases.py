"""One example of a check as a small value: its repr is the code that makes it, its arrays follow from its seed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import gradreg_numpy
from gradreg_conformance.forms import PLAIN, Form, shown
from gradreg_core.portable.networks import LAYERS, Activation, Layer, MaxPool, Network, interpret
from gradreg_core.presets import FrobReg
from gradreg_core.spec import Regularizer
from gradreg_numpy.layers import linearize

__all__ = ["Case", "Data", "Squared", "SquaredPerPosition", "kink_margin", "rounded", "squared"]


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
        position_weight: one tuple of numbers per sample, one for each position, or None.
        ignore_index: the label that is left out, or None; where no class has it, some labels are replaced by it.
        normalizer: the divisor in place of the sum of the sample weights, or None.
        labels: "classes", "distribution" (probabilities of the outputs' shape), or "none".
        label_dtype: of class numbers.
        directions: the shape of the directions given in the call: None (none), "shared" (m,), "sample" (B, m) or
            "rows" (2, B, m).
        target: the target Jacobian of the call: None, "outputs" (B, *outputs, *input), "loss" (B, *input), or
            "teacher": the same network with other weights.
        chunk_size: of the call.
        class_axis: of the call.
        loss: "cross_entropy", or "squared": one half of the squared difference to the labels as real targets, or
            "squared_per_position": its sum over the classes, which are last.
        form: what the model takes and returns.
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
    position_weight: tuple[tuple[float, ...], ...] | None = None
    ignore_index: int | None = None
    normalizer: float | None = None
    labels: str = "classes"
    label_dtype: str = "int64"
    directions: str | None = None
    target: str | None = None
    chunk_size: int | None = None
    class_axis: int | None = None
    loss: str = "cross_entropy"
    form: Form = PLAIN

    def __repr__(self) -> str:
        """The call that makes the case, defaults left out."""
        return shown(self)

    @property
    def data(self) -> "Data":
        """The arrays of the case; the same object for equal cases."""
        return _data(self)

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the call that are plain values, without those left at None."""
        given = {
            "step": self.step,
            "seed": self.draw_seed,
            "sample_ids": self.ids,
            "sample_weight": self.sample_weight,
            "position_weight": self.position_weight,
            "ignore_index": self.ignore_index,
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
    target: np.ndarray | Mapping[str, np.ndarray] | None
    """The target Jacobian, or the weights and statistics of a teacher."""
    counts: np.ndarray | None
    """The integer (B,) of each sample that its input is multiplied by."""

    def model(self, network: Network, params: Mapping[str, np.ndarray] | None = None) -> gradreg_numpy.Model:
        """The reference model, with other weights if they are given."""
        masks = None
        if self.counts is not None:
            wide = self.counts.reshape(-1, *[1] * len(network.input_shape))
            masks = {"0": np.broadcast_to(wide, self.x.shape)}
        return gradreg_numpy.Model(network, dict(self.params if params is None else params), masks)


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


class SquaredPerPosition:
    """The sum of :class:`Squared` over the classes, the last axis: a loss of each position."""

    def value(self, z: np.ndarray, y: Any) -> Any:
        """Losses (B, positions...)."""
        return squared(z, y).sum(axis=-1)

    def gradient(self, z: np.ndarray, y: Any) -> np.ndarray:
        """dM_i/dz_i, M_i being the mean over the positions of a sample."""
        return np.asarray((z - y) / (z[0].size // z.shape[-1]))


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` rounded to `dtype`, in float64."""
    if dtype == "bfloat16":  # to the upper half of a float32, ties away from zero: any such number will do
        words = np.ascontiguousarray(values, np.float32).view(np.uint32)
        return ((words + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
    return values.astype(dtype).astype(np.float64)


@lru_cache(maxsize=4096)
def _data(case: Case) -> Data:
    network, batch, dtype = case.network, case.batch, case.dtype
    rng = np.random.default_rng([case.seed, batch])
    params = _params(network, case.seed, rng)
    x = rng.normal(size=(batch, *network.input_shape))
    own = network.output_shape
    size = math.prod(own)
    axis = -1 if case.class_axis is None else case.class_axis
    axis = axis - 1 if axis > 0 else axis + len(own)
    classes, without = own[axis], (batch, *own[:axis], *own[axis + 1 :])
    y: np.ndarray | None = None
    if case.loss != "cross_entropy":
        y = rounded(rng.normal(size=(batch, *own)), dtype)
    elif case.labels == "distribution":
        y = np.moveaxis(rng.dirichlet(np.ones(classes), size=without), -1, axis + 1)
        y = rounded(rng.random(y.shape) if classes == 1 else y, dtype)
    elif case.labels == "classes":
        y = rng.integers(0, max(2, classes), size=without)
        if classes > 2**7:  # numbers that fewer bits would not hold are among them
            y.flat[:2] = classes - 1, classes - 2
    shapes = {"shared": (size,), "sample": (batch, size), "rows": (2, batch, size)}
    given = None if case.directions is None else rounded(rng.normal(size=shapes[case.directions]), dtype)
    target: np.ndarray | dict[str, np.ndarray] | None = None
    if case.target == "teacher":
        teacher = _params(network, case.seed + 1, rng)
        target = {path: rounded(value, dtype) for path, value in teacher.items()}
    elif case.target is not None:
        outputs = own if case.target == "outputs" else ()
        target = rounded(rng.normal(size=(batch, *outputs, *network.input_shape)), dtype)
    counts = rng.integers(1, 4, size=batch) if case.form.counts else None
    if case.ignore_index is not None and y is not None and not 0 <= case.ignore_index < classes:
        y = np.where(rng.random(y.shape) < 0.4, case.ignore_index, y)
    rounded_params = {path: rounded(value, dtype) for path, value in params.items()}
    return Data(rounded_params, rounded(x, dtype), y, given, target, counts)


def _params(network: Network, seed: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights and statistics; biases, scales and variances away from 0 and 1, where many mistakes do not show."""
    return {
        path: value + 0.3 * rng.normal(size=value.shape)
        if path in network.weights()
        else np.exp(0.2 * rng.normal(size=value.shape))
        for path, value in gradreg_numpy.initialize(network, seed).items()
    }


@lru_cache(maxsize=4096)
def kink_margin(network: Network, batch: int, seed: int) -> float:
    """The least distance of an input of a rectifier or a maximum from its kink; infinite if there are none."""
    distances = [math.inf]

    def rule(layer: Layer, arrays: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
        distances.append(_kink_distance(layer, x))
        return linearize(layer, dict(arrays), x)[0]

    data = Case(network, FrobReg(1.0), batch, seed, labels="none").data
    interpret(dict.fromkeys(LAYERS, rule), network, data.params, data.x)
    return min(distances)


def _kink_distance(layer: Layer, x: np.ndarray) -> float:
    if isinstance(layer, Activation) and layer.kind in ("relu", "leaky_relu"):
        return float(np.abs(x).min())
    if isinstance(layer, MaxPool) and layer.size > 1:
        size, rows, columns = layer.size, x.shape[1] // layer.size, x.shape[2] // layer.size
        windows = x[:, : rows * size, : columns * size].reshape(len(x), rows, size, columns, size, -1)
        ordered = np.sort(np.moveaxis(windows, 2, 3).reshape(len(x), rows, columns, size * size, -1), axis=3)
        return float((ordered[:, :, :, -1] - ordered[:, :, :, -2]).min())
    return math.inf
