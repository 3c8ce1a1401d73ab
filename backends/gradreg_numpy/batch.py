"""The arguments of a call that do not depend on the term, checked."""

import math
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypedDict

import numpy as np

from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.spec import JacobianTerm
from gradreg_numpy.functions import Array, numeric
from gradreg_numpy.layout import View
from gradreg_numpy.networks import Model
from gradreg_numpy.positions import position_weights, without_ignored

__all__ = ["Batch", "LossFunction", "Options"]

_SEEDS = range(2**64)


class LossFunction(Protocol):
    """A loss per sample with its hand-derived gradient; the `gradient` of a penalty needs both holomorphic in z."""

    def value(self, z: Array, y: Any) -> Array:
        """The losses, shape (B, ...); a sample's loss M_i is their mean over further axes."""
        ...

    def gradient(self, z: Array, y: Any) -> Array:
        """dM_i/dz_i, in the shape of z."""
        ...


class Options(TypedDict, total=False):
    """The keywords that all calls share.

    Args:
        step: the training step, at least 0.
        seed: the seed of the draws, in [0, 2**64), in place of the terms' own seeds.
        sample_ids: integers (B,), the samples' global numbers; default 0..B-1.
        sample_weight: (B,), >= 0. Means are sum_i w_i v_i / sum_i w_i, and 0 if all weights are 0.
        position_weight: (B, positions...), >= 0: the outputs' shape without its class axis; see
            :mod:`gradreg_numpy.positions`. With a `loss_fn` the loss of a position must depend on its outputs alone.
        ignore_index: the label of positions to leave out.
        normalizer: divide by this number instead of sum_i w_i.
        class_axis: the axis of the outputs that holds the classes.
        directions: the directions of the projection ``direction()``.
        target: the Jacobian that SobolevReg fits the model's to: an array (B, *outputs, *input), or a teacher, a
            :class:`Model` of the same shapes.
        loss_fn: a loss with its gradient instead of cross-entropy.
        wrt: integers: differentiate with respect to these components of a flattened sample of x; None for all.
    """

    step: int
    seed: int | None
    sample_ids: Any
    sample_weight: Any
    position_weight: Any
    ignore_index: int | None
    normalizer: float | None
    class_axis: int | None
    directions: Any
    target: Any
    loss_fn: LossFunction | None
    wrt: Any


@dataclass(frozen=True)
class Batch:
    """A model, its inputs and labels, and the options of the call."""

    call: str
    model: Model
    x: Array
    y: Any
    step: int
    seed: int | None
    sample_ids: Array
    sample_weight: Array
    """The weights (B,), times the sum of the weights of a sample's positions."""
    position_weight: Array | None
    """The weights (B, positions), or None if all positions have equal weight."""
    normalizer: float
    view: View
    directions: Any
    target: Model | Array | None
    loss_fn: LossFunction | None
    wrt: Array | None
    """The components of a flattened sample of x to differentiate with respect to, in order; None for all."""

    @classmethod
    def of(
        cls,
        call: str,
        model: Any,
        x: Any,
        y: Any,
        step: int = 0,
        seed: int | None = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        position_weight: Any = None,
        ignore_index: int | None = None,
        normalizer: float | None = None,
        class_axis: int | None = None,
        directions: Any = None,
        target: Any = None,
        loss_fn: LossFunction | None = None,
        wrt: Any = None,
    ) -> "Batch":
        """The checked arguments of `call`, whose name is for messages; see :func:`gradreg_numpy.loss`.

        Raises:
            InputError, InputTypeError: an argument does not fit.
        """
        if not isinstance(model, Model):
            raise InputTypeError(
                f"{call}: gradreg_numpy differentiates portable networks only; pass a Model(network, params), got "
                f"{type(model).__name__}."
            )
        x = model.checked(call, x)
        view = View.of(call, model.network.output_shape, class_axis)
        positions = position_weights(call, position_weight, ignore_index, y, view, len(x))
        weight = _sample_weight(call, sample_weight, len(x)) * (1 if positions is None else positions.sum(axis=1))
        if not _is_integer(step) or step < 0:
            raise InputError(f"{call}: step must be an integer of at least 0, got {step!r}.")
        if seed is not None and (not _is_integer(seed) or seed not in _SEEDS):
            raise InputError(f"{call}: seed must be an integer in [0, 2**64), got {seed!r}.")
        ids, divisor = _sample_ids(call, sample_ids, len(x)), _normalizer(call, normalizer, weight)
        return cls(
            call,
            model,
            x,
            without_ignored(None if y is None else _labels_array(call, y, len(x)), ignore_index),
            int(step),
            None if seed is None else int(seed),
            ids,
            weight,
            positions,
            divisor,
            view,
            directions,
            target if target is None or isinstance(target, Model) else numeric(target),
            loss_fn,
            None if wrt is None else np.asarray(wrt, dtype=np.int64),
        )

    def seed_of(self, term: JacobianTerm) -> int:
        """The seed of a term's draws."""
        return term.seed if self.seed is None else self.seed

    def take(self, samples: Array) -> "Batch":
        """The part of the batch at the indices `samples`, with unbiased estimates of means: w_i times B / n."""
        return replace(
            self,
            model=self.model.take(samples),
            x=self.x[samples],
            y=None if self.y is None else self.y[samples],
            sample_ids=self.sample_ids[samples],
            sample_weight=self.sample_weight[samples] * (len(self.x) / len(samples)),
            position_weight=None if self.position_weight is None else self.position_weight[samples],
            target=_part_of(self.target, samples),
        )

    def moved(self, steps: Array) -> Array:
        """The input, moved by steps (B, d) of the differentiated components."""
        flat = np.zeros((len(self.x), self.x[0].size))
        flat[:, np.arange(flat.shape[1]) if self.wrt is None else self.wrt] = steps
        return self.x + flat.reshape(self.x.shape)

    def mean(self, values: Array) -> Any:
        """sum_i w_i v_i / N for values of shape (B,)."""
        return (self.sample_weight * values).sum() / self.normalizer


def _part_of(target: Model | Array | None, samples: Array) -> Model | Array | None:
    """The target of the samples at those indices."""
    return target if target is None else target.take(samples) if isinstance(target, Model) else target[samples]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _sample_ids(call: str, sample_ids: Any, batch: int) -> Array:
    ids = np.arange(batch) if sample_ids is None else np.asarray(sample_ids)
    if ids.shape != (batch,) or ids.dtype.kind not in "iu":
        raise InputError(f"{call}: sample_ids must be integers of shape ({batch},), got {ids.dtype} {ids.shape}.")
    return ids


def _sample_weight(call: str, sample_weight: Any, batch: int) -> Array:
    weight = np.ones(batch) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (batch,) or not (weight >= 0).all():
        raise InputError(f"{call}: sample_weight must be numbers >= 0 of shape ({batch},), got {weight!r}.")
    return weight


def _normalizer(call: str, normalizer: float | None, weight: Array) -> float:
    """The divisor of sums over the samples."""
    divisor = float(weight.sum()) or 1.0 if normalizer is None else float(normalizer)
    if not (math.isfinite(divisor) and divisor > 0):
        raise InputError(f"{call}: normalizer must be a finite number above 0, got {normalizer!r}.")
    return divisor


def _labels_array(call: str, y: Any, batch: int) -> Array:
    """Labels `y` as an array with the batch in its first axis."""
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise InputTypeError(f"{call}: y must be an array of labels, got {type(y).__name__}.") from error
    if labels.shape[:1] != (batch,):
        raise InputError(f"{call}: expected labels for {batch} samples, got y of shape {labels.shape}.")
    return labels
