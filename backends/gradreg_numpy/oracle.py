"""The penalties from explicit Jacobians, W @ J and a norm, and their gradients by complex-step differentiation.

Everything is holomorphic in parameters and inputs off the kinks. The constants of a projection (draws, chosen classes,
singular vectors) are computed from real parts, comparisons look at real parts, and transposes are not conjugated.
So Im f(p + i h e) / h is the derivative of f without cancellation (Squire, Trapp 1998), to roundoff at h = 1e-30.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import singledispatch
from typing import Any

import numpy as np
from typing_extensions import Unpack

from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_core.presets import ConfidencePenalty, WeightDecay
from gradreg_core.projections import exact
from gradreg_core.random import STREAM_SUBSET
from gradreg_core.spec import JacobianPenalty, JacobianTerm, Regularizer, Term
from gradreg_numpy.batch import Batch, Options
from gradreg_numpy.draws import draws
from gradreg_numpy.functions import Array, numeric, rule_for
from gradreg_numpy.layout import View
from gradreg_numpy.networks import Model
from gradreg_numpy.norms import NORMS, PHIS
from gradreg_numpy.outputs import OUTPUTS, losses, negative_entropy
from gradreg_numpy.positions import kept, spread
from gradreg_numpy.projections import Setting, directions, pull, push, unit

__all__ = [
    "COMPLEX_STEP",
    "data_loss",
    "gradient",
    "outputs",
    "penalty_terms",
    "projected_jacobian",
    "require_target_used",
    "term_value",
    "term_values",
]

COMPLEX_STEP = 1e-30
"""Its square is below the roundoff of anything of order 1; there is no difference, so it cannot be too small."""


# --- Jacobian terms ---------------------------------------------------------------------------------------------------
def projected_jacobian(
    batch: Batch, output: str = "logits", at: str | None = None, of: str | None = None
) -> tuple[Array, Array]:
    """(z, J): canonical logits (B, positions, classes), and the Jacobian of `output` with respect to the input.

    J has shape (B, q, d), or (B, q, B, d) if the samples are coupled; its rows are in the order (positions,
    classes). q is 1 for the loss, whose J is dM/dz J, for cross-entropy (f - y)^T J / positions, and m otherwise.
    With `of` the values of that layer, seen by `batch.view`, replace the outputs. Rows of positions of
    weight 0 are zero; the columns are `batch.wrt`.
    """
    outputs, J = batch.model.differentiate(batch.x, at, of)
    outer = OUTPUTS[output].jacobian(batch, outputs)
    if output != "loss":
        outer = outer * kept(batch.position_weight, len(outer), outer.shape[1])[:, :, None]
    if at is None and batch.wrt is not None:
        J = J[..., batch.wrt]
    subscripts = "iqm,imd->iqd" if J.ndim == 3 else "iqm,imjd->iqjd"
    return batch.view.canonical(outputs), np.einsum(subscripts, outer, J[:, batch.view.order])


def _jacobian_values(batch: Batch, term: JacobianPenalty) -> Array:
    """phi(||J_i^T W_i||) of each sample, shape (B,)."""
    along_the_gradient = term.method == "difference" and term.side == "output"
    G = (_slopes if term.side == "input" else _slope_along_the_gradient if along_the_gradient else _pulled)(batch, term)
    flat = np.moveaxis(G, 0, 1).reshape(G.shape[1], -1)
    return np.asarray(rule_for(term.phi, PHIS)(term.phi, NORMS[term.norm](flat, term.squared)))


def _setting(batch: Batch, term: JacobianPenalty, z: Array, J: Array, view: View, size: int) -> Setting:
    ids = np.zeros_like(batch.sample_ids) if term.draw == "per_batch" else batch.sample_ids
    masked = term.side == "output" and term.output != "loss"
    counted = kept(batch.position_weight if masked else None, len(z), size)
    return Setting(batch, view, z, J, draws(batch.seed_of(term), batch.step, ids), size, counted)


def _pulled(batch: Batch, term: JacobianPenalty) -> Array:
    """J_i^T w_i for the rows w of W, (k, B, d), or (J_i - T_i)^T w_i."""
    if term.of is not None:
        shape = batch.model.activation(batch.x, term.of, "of").shape
        weight = spread(batch.call, batch.position_weight, batch.view.label_axes, shape)
        batch = replace(batch, view=View.of(batch.call, shape[1:], None), position_weight=weight)
    z, J = projected_jacobian(batch, term.output, term.at, term.of)
    W = directions(term.projection, _setting(batch, term, z, J, batch.view, J.shape[1]))
    return pull(J, W) - pull(_target(batch, term, J), W) if term.to_target else pull(J, W)


def _target(batch: Batch, term: JacobianPenalty, J: Array) -> Array:
    """The target Jacobian T in the shape of J, real: a constant."""
    target = batch.target
    if isinstance(target, Model):
        if term.at is not None or term.of is not None:
            raise InputError(f"{batch.call}: a teacher has no places; pass target= as an array for at= and of=.")
        shapes = [(model.network.input_shape, model.network.output_shape) for model in (batch.model, target)]
        if shapes[0] != shapes[1]:
            raise InputError(f"{batch.call}: the teacher must map {shapes[0][0]} to {shapes[0][1]}, got {shapes[1]}.")
        return projected_jacobian(replace(batch, model=target, x=batch.x.real), term.output)[1].real
    own = () if term.output == "loss" else batch.view.own
    inputs = batch.model.activation(batch.x, term.at).shape[1:]
    inputs = inputs if batch.wrt is None or term.at is not None else batch.wrt.shape
    wanted = (len(batch.x), *own, *inputs)
    if target is None or target.shape != wanted:
        came = "nothing" if target is None else f"shape {target.shape}"
        raise InputError(f"{batch.call}: {term!r} needs target= of shape {wanted} or a teacher, got {came}.")
    T = target.real.reshape(len(batch.x), J.shape[1], -1)
    if term.output == "loss":
        return T
    return T[:, batch.view.order] * kept(batch.position_weight, len(T), T.shape[1])[:, :, None]


def _slope_along_the_gradient(batch: Batch, term: JacobianPenalty) -> Array:
    """(u(x + h d) - u(x)) / h, (1, B, 1), for u the sum of the components of the output and d = grad u / ||grad u||."""
    _, J = projected_jacobian(batch, term.output)
    if term.projection == exact() and J.shape[1] > 1:
        raise InputError(
            f"{batch.call}: method='difference' needs one output per sample, got {J.shape[1]}; pass projection=ones()."
        )
    d = unit(pull(J.real, np.ones((1, *J.shape[:2])))[0])

    def values(x: Array) -> Array:
        return _values(batch, term, x).sum(axis=1)

    return ((values(batch.moved(term.h * d)) - values(batch.x)) / term.h)[None, :, None]


def _values(batch: Batch, term: JacobianPenalty, x: Array) -> Array:
    """The output of the term at another input, (B, q), 0 at positions of weight 0."""
    values = OUTPUTS[term.output].value(batch, batch.model(x))
    return values if term.output == "loss" else values * kept(batch.position_weight, *values.shape)


def _slopes(batch: Batch, term: JacobianPenalty) -> Array:
    """J_i v_i for the rows v of V, (k, B, q), or (o(x + h v) - o(x)) / h for the outputs o."""
    own = batch.x.shape[1:] if batch.wrt is None else batch.wrt.shape
    z, J = projected_jacobian(batch, term.output)
    view = View.of(batch.call, own, None)
    V = directions(term.projection, _setting(batch, term, z, J, view, math.prod(own)))
    if term.method == "jvp":
        return np.stack([push(J, v) for v in V])
    base = _values(batch, term, batch.x)
    return np.stack([(_values(batch, term, batch.moved(term.h * v)) - base) / term.h for v in V])


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
    """Whether the term is due at this step."""
    return batch.step % term.every == 0 and term.weight_at(batch.step) != 0


def outputs(batch: Batch, reg: Regularizer | None) -> Array:
    """The model's outputs for the whole batch, as the loss and the confidence penalty see them.

    If all Jacobian terms due are over the same part of the batch, the model is called on the part and
    on the rest, which differs from one call only for batch normalisation in training.
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
@singledispatch
def term_value(term: Term, batch: Batch, reg: Regularizer) -> Any:
    """The value of a term of `reg` before weight and `every`.

    Raises:
        UnsupportedError: the term has no rule.
    """
    raise UnsupportedError(f"{batch.call}: {term!r} is not a term that gradreg_numpy knows.")


@term_value.register
def _(term: WeightDecay, batch: Batch, reg: Regularizer) -> Any:
    matrices = [path for path, shape in batch.model.network.weights().items() if len(shape) >= 2]
    return sum(0.5 * (batch.model.params[path] ** 2).sum() for path in matrices)


@term_value.register
def _(term: ConfidencePenalty, batch: Batch, reg: Regularizer) -> Any:
    batch.view.require_classes(batch.call, "ConfidencePenalty")
    return batch.mean(negative_entropy(batch, batch.view.canonical(outputs(batch, reg))))


@term_value.register
def _(term: JacobianTerm, batch: Batch, reg: Regularizer) -> Any:
    lowered = term.lower()
    if not _is_whole(batch, term):
        if batch.directions is not None:
            raise InputError(f"{batch.call}: directions= in the call and fraction < 1 do not go together.")
        batch = batch.take(_part(batch, term.fraction, batch.seed_of(term))[0])
    return lowered.scale * batch.mean(_jacobian_values(batch, lowered))


def require_target_used(batch: Batch, reg: Regularizer | None) -> None:
    """Refuse a target Jacobian that no term uses.

    Raises:
        InputError: there is one.
    """
    terms = () if reg is None else reg.terms
    if batch.target is not None and not any(isinstance(one, JacobianTerm) and one.lower().to_target for one in terms):
        raise InputError(f"{batch.call}: target= was given, but no term uses it; add SobolevReg, or leave it out.")


def term_values(batch: Batch, reg: Regularizer) -> list[Any]:
    """The value of every term of `reg`, after weight and `every`; see :func:`penalty_terms`."""
    if not isinstance(reg, Regularizer):
        raise InputTypeError(f"{batch.call}: reg must be a regularizer such as SpectReg(0.01), got {reg!r}.")
    require_target_used(batch, reg)
    return [
        term.weight_at(batch.step) * term.every * term_value(term, batch, reg) if _is_due(batch, term) else 0.0
        for term in reg.terms
    ]


def penalty_terms(model: Model, x: Any, y: Any, reg: Regularizer, **options: Unpack[Options]) -> list[Any]:
    """The value of every term of `reg`: weight(step) * scale * sum_i w_i phi(||J_i^T W_i||) / N, and so on.

    A term with ``every=n`` is n times this value at steps divisible by n and 0 at others; a term with ``fraction=p`` is
    estimated from a part of the batch. The values are complex if the model or x is.

    Args:
        model: a :class:`Model`.
        x: the input, (B, *input_shape).
        y: labels or None.
        reg: a regularizer.
        options: see :class:`gradreg_numpy.batch.Options`.

    Raises:
        InputError, InputTypeError: an argument does not fit.
        UnsupportedError: a term, projection, phi or layer has no rule.
    """
    return term_values(Batch.of("penalty_terms", model, x, y, **options), reg)


def data_loss(batch: Batch, z: Array) -> Any:
    """The weighted mean of the samples' losses for outputs z (B, *own)."""
    return batch.mean(losses(batch, z))


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
    model: Model, x: Any, y: Any, reg: Regularizer, *, of: str = "penalty", **options: Unpack[Options]
) -> tuple[dict[str, Array], Array]:
    """Gradients with respect to the trainable weights, by path, and to x, by complex step over every element.

    Args:
        model: a real :class:`Model`.
        x: the real input, (B, *input_shape).
        y: labels or None.
        reg: a regularizer.
        of: ``"penalty"``, the sum over the terms, or ``"total"``, loss plus penalty.
        options: see :func:`penalty_terms`.

    Raises:
        InputError: `of` is neither, or the model or x is complex; or as :func:`penalty_terms`.
        InputTypeError, UnsupportedError: as :func:`penalty_terms`.
    """
    batch = Batch.of("gradient", model, x, y, **options)
    if of not in ("penalty", "total"):
        raise InputError(f"gradient: of must be 'penalty' or 'total', got {of!r}.")
    if np.iscomplexobj(batch.x) or any(np.iscomplexobj(value) for value in model.params.values()):
        raise InputError("gradient: the model and x must be real; the complex step uses the imaginary part.")

    def value(at: Batch) -> Any:
        penalty = sum(term_values(at, reg))
        return penalty + data_loss(at, outputs(at, reg)) if of == "total" else penalty

    def with_weight(path: str) -> Callable[[Array], Any]:
        return lambda moved: value(replace(batch, model=model.replaced(path, moved)))

    weights = {path: _derivative(with_weight(path), numeric(model.params[path])) for path in model.network.weights()}
    return weights, _derivative(lambda moved: value(replace(batch, x=moved)), batch.x)
