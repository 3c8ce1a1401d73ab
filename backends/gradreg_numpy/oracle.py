"""The penalties from explicit Jacobians, W @ J and a norm, and their gradients by complex-step differentiation.

Everything is holomorphic in parameters and inputs off the kinks: what a projection declares a constant (draws, chosen
classes, singular vectors) is computed from real parts, comparisons look at real parts, products are plain transposes.
So Im f(p + i h e) / h is the derivative of f without any cancellation (Squire, Trapp 1998), to roundoff at h = 1e-30.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_core.norms import Phi, hinge, identity, target
from gradreg_core.presets import ConfidencePenalty, WeightDecay
from gradreg_core.random import STREAM_SUBSET, Draws
from gradreg_core.spec import JacobianPenalty, JacobianTerm, Regularizer, Term
from gradreg_numpy.directions import Setting, directions, pull, push
from gradreg_numpy.functions import Array, numeric
from gradreg_numpy.networks import Model
from gradreg_numpy.ops import draws
from gradreg_numpy.outputs import (
    LossFunction,
    View,
    cross_entropy,
    labels_of,
    log_probabilities,
    negative_entropy,
    output_jacobian,
    probabilities,
)

__all__ = [
    "COMPLEX_STEP",
    "Batch",
    "data_loss",
    "gradient",
    "outputs",
    "penalty_terms",
    "projected_jacobian",
    "term_values",
]

COMPLEX_STEP = 1e-30
"""Its square is below the roundoff of anything of order 1; no difference is taken, so it cannot be too small."""
_SEEDS = range(2**64)


@dataclass(frozen=True)
class Batch:
    """The arguments of a call that do not depend on the term, checked."""

    call: str
    model: Model
    x: Array
    y: Any
    step: int
    seed: int | None
    sample_ids: Array
    sample_weight: Array
    normalizer: float
    view: View
    given: Any
    loss_fn: LossFunction | None

    @classmethod
    def of(
        cls,
        call: str,
        model: Any,
        x: Any,
        y: Any,
        *,
        step: int = 0,
        seed: int | None = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        normalizer: float | None = None,
        class_axis: int | None = None,
        directions: Any = None,
        loss_fn: LossFunction | None = None,
    ) -> "Batch":
        """The checked arguments.

        Args:
            call: the name of the call, for messages.
            model: a :class:`Model`, real or complex.
            x: the input, (B, *input_shape), real or complex.
            y: integer class labels or distributions, see `labels_of`; None where no term needs them.
            step: of training, at least 0.
            seed: of the draws, in [0, 2**64), in place of the terms' own seeds.
            sample_ids: integers (B,), the samples' global numbers; default 0..B-1.
            sample_weight: (B,), >= 0. Means are sum_i w_i v_i / sum_i w_i, and 0 where all weights are 0.
            normalizer: divide by this number instead of sum_i w_i.
            class_axis: the axis of the outputs that holds the classes.
            directions: for the projection ``direction()``.
            loss_fn: a loss with its gradient instead of cross-entropy.

        Raises:
            InputError, InputTypeError: an argument does not fit.
        """
        if not isinstance(model, Model):
            raise InputTypeError(
                f"{call}: gradreg_numpy differentiates portable networks only; pass a Model(network, params), got "
                f"{type(model).__name__}."
            )
        x = model.checked(call, x)
        batch = len(x)
        if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 0:
            raise InputError(f"{call}: step must be an integer of at least 0, got {step!r}.")
        if seed is not None and (
            isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed not in _SEEDS
        ):
            raise InputError(f"{call}: seed must be an integer in [0, 2**64), got {seed!r}.")
        ids = np.arange(batch) if sample_ids is None else np.asarray(sample_ids)
        if ids.shape != (batch,) or ids.dtype.kind not in "iu":
            raise InputError(f"{call}: sample_ids must be integers of shape ({batch},), got {ids.dtype} {ids.shape}.")
        weight = np.ones(batch) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if weight.shape != (batch,) or not (weight >= 0).all():
            raise InputError(f"{call}: sample_weight must be numbers >= 0 of shape ({batch},), got {weight!r}.")
        total = float(weight.sum()) or 1.0
        divisor = total if normalizer is None else float(normalizer)
        if not (math.isfinite(divisor) and divisor > 0):
            raise InputError(f"{call}: normalizer must be a finite number above 0, got {normalizer!r}.")
        if y is not None:
            y = _labels_array(call, y, batch)
        view = View.of(call, model.network.output_shape, class_axis)
        own = None if seed is None else int(seed)
        return cls(call, model, x, y, int(step), own, ids, weight, divisor, view, directions, loss_fn)

    def seed_of(self, term: JacobianTerm) -> int:
        """The seed of a term's draws."""
        return term.seed if self.seed is None else self.seed

    def take(self, samples: Array) -> "Batch":
        """The part of the batch at the indices `samples`, its estimates of means unbiased: w_i is times B / n."""
        return replace(
            self,
            model=self.model.take(samples),
            x=self.x[samples],
            y=None if self.y is None else self.y[samples],
            sample_ids=self.sample_ids[samples],
            sample_weight=self.sample_weight[samples] * (len(self.x) / len(samples)),
        )

    def mean(self, values: Array) -> Any:
        """sum_i w_i v_i / N for values of shape (B,)."""
        return (self.sample_weight * values).sum() / self.normalizer


def _labels_array(call: str, y: Any, batch: int) -> Array:
    """Labels `y` as an array with the batch in its first axis."""
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise InputTypeError(f"{call}: y must be an array of labels, got {type(y).__name__}.") from error
    if labels.shape[:1] != (batch,):
        raise InputError(f"{call}: expected labels for {batch} samples, got y of shape {labels.shape}.")
    return labels


# --- Jacobian terms ---------------------------------------------------------------------------------------------------
def projected_jacobian(batch: Batch, output: str = "logits", at: str | None = None) -> tuple[Array, Array]:
    """(z, J): canonical logits (B, positions, classes), and the Jacobian of `output` with respect to the input.

    J has shape (B, q, d), or (B, q, B, d) where the samples are coupled; its rows are in the order (positions,
    classes). q is 1 for the loss, whose J is dM/dz J, for cross-entropy (f - y)^T J / positions, and m otherwise.
    """
    outputs, J = batch.model.differentiate(batch.x, at)
    view = batch.view
    z = view.canonical(outputs)
    if output == "loss":
        outer = _loss_gradient(batch, outputs, z).reshape(len(z), 1, view.size)
    else:
        if output != "logits":
            view.require_classes(batch.call, f"a penalty on the {output}")
        outer = output_jacobian(output, z)
    subscripts = "iqm,imd->iqd" if J.ndim == 3 else "iqm,imjd->iqjd"
    return z, np.einsum(subscripts, outer, J[:, view.order])


def _loss_gradient(batch: Batch, outputs: Array, z: Array) -> Array:
    """dM_i/dz_i, canonical: (f - y) / positions for cross-entropy."""
    if batch.loss_fn is not None:
        return batch.view.canonical(np.asarray(batch.loss_fn.gradient(outputs, batch.y)))
    labels = labels_of(batch.call, batch.y, batch.view, len(z), "a penalty on the loss")
    return (probabilities(z) - labels.distribution) / batch.view.positions


def _safe_sqrt(square: Array) -> Array:
    """Square root with value and derivative 0 at 0."""
    positive = square.real > 0
    return np.where(positive, np.sqrt(np.where(positive, square, 1.0)), 0.0)


def _norm(norm: str, squared: bool, G: Array) -> Array:
    """The norm of all components of a sample's G = J^T W, (k, B, d), shape (B,)."""
    flat = np.moveaxis(G, 0, 1).reshape(G.shape[1], -1)
    if norm == "l2":
        square = (flat * flat).sum(axis=1)
        return square if squared else _safe_sqrt(square)
    absolute = flat * np.sign(flat.real)
    if norm == "l1":
        value = absolute.sum(axis=1)
    else:
        largest = absolute.real.argmax(axis=1)
        value = absolute[np.arange(len(flat)), largest]
    return np.asarray(value * value if squared else value)


def _phi(phi: Phi, n: Array) -> Array:
    """Phi applied to the norms n."""
    match phi:
        case identity():
            return n
        case target(t=t):
            return (n - t) ** 2
        case hinge(t=t):
            return np.where(n.real > t, n - t, 0.0) ** 2
    raise UnsupportedError(f"gradreg_numpy: no rule for phi={phi!r}.")


def _jacobian_values(batch: Batch, term: JacobianPenalty) -> Array:
    """phi(||J_i^T W_i||) of each sample, shape (B,)."""
    ids = np.zeros_like(batch.sample_ids) if term.draw == "per_batch" else batch.sample_ids
    drawn = draws(batch.seed_of(term), batch.step, ids)
    if term.side == "input":
        return _phi(term.phi, _norm(term.norm, term.squared, _slopes(batch, term, drawn)))
    z, J = projected_jacobian(batch, term.output, term.at)
    setting = Setting(batch.call, batch.view, z, J, batch.y, drawn, J.shape[1], batch.given)
    W = directions(term.projection, setting)
    return _phi(term.phi, _norm(term.norm, term.squared, pull(J, W)))


def _slopes(batch: Batch, term: JacobianPenalty, drawn: Draws) -> Array:
    """J_i v_i for the rows v of V, (k, B, q), or (o(x + h v) - o(x)) / h for the outputs o."""
    own = batch.x.shape[1:]
    z, J = projected_jacobian(batch, term.output)
    setting = Setting(batch.call, View.of(batch.call, own, None), z, J, batch.y, drawn, math.prod(own), batch.given)
    V = directions(term.projection, setting)
    if term.method == "jvp":
        return np.stack([push(J, v) for v in V])
    base = _output_values(batch, term.output, batch.x)
    moved = [_output_values(batch, term.output, batch.x + term.h * v.reshape(batch.x.shape)) for v in V]
    return np.stack([(each - base) / term.h for each in moved])


def _output_values(batch: Batch, output: str, x: Array) -> Array:
    """The values of `output` at x, flattened, (B, q)."""
    outputs = batch.model(x)
    z = batch.view.canonical(outputs)
    if output == "loss":
        return _losses(batch, outputs).reshape(len(x), 1)
    if output == "probabilities":
        return probabilities(z).reshape(len(x), -1)
    if output == "log_probabilities":
        return log_probabilities(z).reshape(len(x), -1)
    return z.reshape(len(x), -1)


# --- parts of the batch -----------------------------------------------------------------------------------------------
def _part(batch: Batch, fraction: float, seed: int) -> tuple[Array, Array]:
    """Indices of the ceil(fraction * B) samples with the smallest draws, in that order, and of the rest."""
    words = draws(seed, batch.step, batch.sample_ids).words(STREAM_SUBSET, (0,), 1)[0, :, 0]
    order = np.argsort(words, kind="stable")
    size = math.ceil(fraction * len(order))
    return order[:size], order[size:]


def _is_whole(batch: Batch, term: JacobianTerm) -> bool:
    return math.ceil(term.fraction * len(batch.x)) >= len(batch.x)


def _is_due(batch: Batch, term: Term) -> bool:
    """Whether the term costs anything at this step."""
    return batch.step % term.every == 0 and term.weight_at(batch.step) != 0


def outputs(batch: Batch, reg: Regularizer | None) -> Array:
    """The model's outputs for the whole batch, as the loss and the confidence penalty see them.

    Where the only Jacobian terms due are over one and the same part of the batch, the model is called on the part and
    on the rest, which differs from one call for batch normalisation in training alone.
    """
    due = [term for term in (reg.terms if reg is not None else ()) if _is_due(batch, term)]
    terms = [term for term in due if isinstance(term, JacobianTerm)]
    parts = {(term.fraction, batch.seed_of(term)) for term in terms if not _is_whole(batch, term)}
    if len(parts) != 1 or any(_is_whole(batch, term) for term in terms):
        return batch.model(batch.x)
    part, rest = _part(batch, *parts.pop())
    pieces = [batch.model.take(indices)(batch.x[indices]) for indices in (part, rest)]
    return np.concatenate(pieces)[np.argsort(np.concatenate([part, rest]))]


# --- terms ------------------------------------------------------------------------------------------------------------
def _bare(batch: Batch, term: Term, reg: Regularizer) -> Any:
    """The value of a term before weight and `every`."""
    if isinstance(term, WeightDecay):
        matrices = [path for path, shape in batch.model.network.weights().items() if len(shape) >= 2]
        return sum(0.5 * (batch.model.params[path] ** 2).sum() for path in matrices)
    if isinstance(term, ConfidencePenalty):
        batch.view.require_classes(batch.call, "ConfidencePenalty")
        return batch.mean(negative_entropy(batch.view.canonical(outputs(batch, reg))))
    if not isinstance(term, JacobianTerm):
        raise UnsupportedError(f"{batch.call}: {term!r} is no term that gradreg_numpy knows.")
    lowered = term.lower()
    if not _is_whole(batch, term):
        if batch.given is not None:
            raise InputError(f"{batch.call}: directions= in the call and fraction < 1 do not go together.")
        batch = batch.take(_part(batch, term.fraction, batch.seed_of(term))[0])
    return lowered.scale * batch.mean(_jacobian_values(batch, lowered))


def term_values(batch: Batch, reg: Regularizer) -> list[Any]:
    """The value of every term of `reg`, after weight and `every`; see :func:`penalty_terms`."""
    if not isinstance(reg, Regularizer):
        raise InputTypeError(f"{batch.call}: reg must be a regularizer such as SpectReg(0.01), got {reg!r}.")
    return [
        term.weight_at(batch.step) * term.every * _bare(batch, term, reg) if _is_due(batch, term) else 0.0
        for term in reg.terms
    ]


def penalty_terms(model: Model, x: Any, y: Any, reg: Regularizer, **options: Any) -> list[Any]:
    """The value of every term of `reg`: weight(step) * scale * sum_i w_i phi(||J_i^T W_i||) / N, and so on.

    A term with ``every=n`` is n times that at steps divisible by n and 0 at others; one with ``fraction=p`` is
    estimated from a part of the batch. Complex if the model or x is.

    Args:
        model: a :class:`Model`.
        x: the input, (B, *input_shape).
        y: labels or None.
        reg: a regularizer.
        options: `step`, `seed`, `sample_ids`, `sample_weight`, `normalizer`, `class_axis`, `directions`, `loss_fn`; see
            :meth:`Batch.of`.

    Raises:
        InputError, InputTypeError: an argument does not fit.
        UnsupportedError: a term, projection, shape or layer that gradreg_core does not define.
    """
    return term_values(Batch.of("penalty_terms", model, x, y, **options), reg)


def data_loss(batch: Batch, z: Array) -> Any:
    """The weighted mean of the samples' losses for outputs z (B, *own)."""
    return batch.mean(_losses(batch, z))


def _losses(batch: Batch, z: Array) -> Array:
    """The loss of each sample for outputs z (B, *own), shape (B,)."""
    if batch.loss_fn is not None:
        return np.asarray(batch.loss_fn.value(z, batch.y)).reshape(len(z), -1).mean(axis=1)
    labels = labels_of(batch.call, batch.y, batch.view, len(z), "the cross-entropy loss")
    return cross_entropy(batch.view.canonical(z), labels.distribution)


# --- gradients --------------------------------------------------------------------------------------------------------
def _stepped(array: Array) -> Iterator[tuple[tuple[int, ...], Array]]:
    """(index, copy of `array` with an imaginary step at the index) for every element."""
    for index in np.ndindex(array.shape):
        moved = array.astype(np.complex128)
        moved[index] += 1j * COMPLEX_STEP
        yield index, moved


def _derivative(function: Callable[[Array], Any], array: Array) -> Array:
    """The derivative of a real function with respect to `array`, element by element."""
    result = np.zeros(array.shape)
    for index, moved in _stepped(array):
        result[index] = np.imag(function(moved)) / COMPLEX_STEP
    return result


def gradient(
    model: Model, x: Any, y: Any, reg: Regularizer, *, of: str = "penalty", **options: Any
) -> tuple[dict[str, Array], Array]:
    """Gradients with respect to the trainable weights, by path, and to x, by complex step over every element.

    Args:
        model: a real :class:`Model`.
        x: the real input, (B, *input_shape).
        y: labels or None.
        reg: a regularizer.
        of: ``"penalty"``, the sum over the terms, or ``"total"``, loss and penalty.
        options: see :func:`penalty_terms`.

    Raises:
        InputError: `of` is neither, or the model or x is complex; or as :func:`penalty_terms`.
        InputTypeError, UnsupportedError: as :func:`penalty_terms`.
    """
    batch = Batch.of("gradient", model, x, y, **options)
    if of not in ("penalty", "total"):
        raise InputError(f"gradient: of must be 'penalty' or 'total', got {of!r}.")
    if np.iscomplexobj(batch.x) or any(np.iscomplexobj(value) for value in model.params.values()):
        raise InputError("gradient: the model and x must be real; the imaginary part is used up by the complex step.")

    def value(at: Batch) -> Any:
        penalty = sum(term_values(at, reg))
        return penalty + data_loss(at, outputs(at, reg)) if of == "total" else penalty

    def with_weight(path: str) -> Callable[[Array], Any]:
        return lambda moved: value(replace(batch, model=model.replaced(path, moved)))

    weights = {path: _derivative(with_weight(path), numeric(model.params[path])) for path in model.network.weights()}
    return weights, _derivative(lambda moved: value(replace(batch, x=moved)), batch.x)
