"""The one formula, written once over the backend protocol.

    penalty = weight * scale * mean_i phi(||J_i^T W_i||),   W_i = projection(z_i, y_i, draw_i)

(with directions in the input's space ||J_i V_i||, see :mod:`gradreg_core.input_side`).

J^T w is the pullback of w through the model, so no Jacobian is formed unless all its rows are asked for. The pullback
through the output map (softmax, log-softmax, loss) comes first and stays differentiable.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypedDict

from gradreg_core import norms
from gradreg_core.backend import Array, Backend, Pullback
from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_core.layout import Layout, Target, is_floating, is_half, prepare_target
from gradreg_core.projections import DirectionContext, exact
from gradreg_core.random import Draws, make_draws
from gradreg_core.spec import JacobianPenalty, JacobianTerm

__all__ = [
    "Call",
    "Forward",
    "Options",
    "draws_of",
    "forward_pass",
    "jacobian_rows",
    "make_forward",
    "per_sample",
    "reduced",
    "require_floating",
    "widened",
]


class Options(TypedDict, total=False):
    """The keyword arguments that all calls take; :class:`gradreg_core.calls.Calls` describes them."""

    step: Any
    seed: Any
    loss_fn: Callable[[Array, Any], Array] | None
    sample_ids: Any
    sample_weight: Any
    normalizer: Any
    class_axis: int | None
    directions: Any
    params: Any
    chunk_size: int | None


@dataclass(frozen=True)
class Call:
    """The arguments of one call that do not depend on the term; see :class:`gradreg_core.calls.Calls`."""

    ops: Backend
    name: str
    step: Any = 0
    seed: Any = None
    loss_fn: Callable[[Array, Any], Array] | None = None
    sample_ids: Any = None
    sample_weight: Any = None
    normalizer: Any = None
    class_axis: int | None = None
    directions: Any = None
    params: Any = None
    chunk_size: int | None = None

    def without_state_changes(self, model: Any) -> Any:
        """The model for a pass that leaves its state as it is, where the backend can see to it."""
        return self.ops.without_state_changes(model) if hasattr(self.ops, "without_state_changes") else model

    def seed_of(self, term: JacobianTerm) -> Any:
        """The seed of a term's draws: the call's, if it has one."""
        return term.seed if self.seed is None else self.seed


@dataclass(frozen=True)
class Forward:
    """One forward pass: the outputs, and the pullbacks of cotangents to what is differentiated."""

    call: Call
    y: Any
    outputs: Array
    layout: Layout
    logits: Array
    """(B, positions, classes), in float32 or better."""
    pullbacks: dict[str | None, Pullback]
    sample_ids: Array | None
    """int32 (B,), or None for 0..B-1."""
    model: Any = None
    x: Any = None
    """What the pass was of, for the terms that pass through the model again."""
    pushed: Any = None
    """What came with the pass of the first row of an input-side term, as (term, array)."""
    _cache: dict[str, Any] = field(default_factory=dict)

    def target(self, what: str) -> Target:
        """The labels as a distribution, prepared once."""
        if "target" not in self._cache:
            call = self.call
            self._cache["target"] = prepare_target(call.ops, call.name, self.y, self.layout, self.logits, what)
        target: Target = self._cache["target"]
        return target

    def probabilities(self, what: str) -> Array:
        """F = softmax(z), or the logistic function of a single logit."""
        self.layout.require_classes(self.call.name, what)
        if "f" not in self._cache:
            ops = self.call.ops
            single = self.layout.canonical[2] == 1
            self._cache["f"] = ops.sigmoid(self.logits) if single else ops.softmax(self.logits)
        return self._cache["f"]

    def losses(self) -> Array:
        """The loss of each sample, shape (B,), averaged over its positions."""
        ops, (_, positions, classes) = self.call.ops, self.layout.canonical
        if self.call.loss_fn is not None:
            return self._custom_losses(self.outputs)
        target, z = self.target("the cross-entropy loss"), self.logits
        fused = getattr(ops, "cross_entropy", None) if target.hard and target.checked and classes > 1 else None
        if fused is not None:
            total = fused(z, target.labels)
        else:
            y = target.distribution
            total = ops.sum(ops.softplus(z) - y * z if classes == 1 else (-y) * ops.log_softmax(z), (1, 2))
        return total if positions == 1 else total / positions

    def _custom_losses(self, outputs: Array) -> Array:
        ops, call, batch = self.call.ops, self.call, self.layout.shape[0]
        assert call.loss_fn is not None
        losses = call.loss_fn(outputs, self.y)
        shape = ops.shape(losses) if ops.is_array(losses) else None
        if shape is None or shape[:1] != (batch,):
            came = f"a result of shape {shape}" if shape is not None else f"{type(losses).__name__}"
            raise InputError(
                f"{call.name}: loss_fn must return one loss for each sample, shape ({batch}, ...), got {came}. "
                f"Pass a loss without its own averaging (reduction='none')."
            )
        size = math.prod(ops.shape(outputs))
        if math.prod(shape) > size:
            raise InputError(
                f"{call.name}: loss_fn returned losses of shape {shape} for outputs of shape {ops.shape(outputs)}, "
                f"more than one for each output: labels and outputs were broadcast. Give them one shape."
            )
        losses = widened(ops, losses)
        return ops.sum(ops.reshape(losses, (batch, -1)), 1) / max(1, math.prod(shape[1:]))

    def cotangent(self, output: str, w: Array) -> Array:
        """A direction w in the space of `output` pulled back to the logits, both canonical, differentiably."""
        ops, (batch, positions, classes) = self.call.ops, self.layout.canonical
        if output == "logits":
            return w
        if output == "loss" and self.call.loss_fn is not None:
            _, pullback = ops.vjp(self._custom_losses, self.outputs)
            pulled = pullback(ops.reshape(w, (batch,)))
            return widened(ops, self.layout.to_canonical(ops, pulled))
        f = self.probabilities(f"a penalty on the {output}")
        if output == "loss":
            pulled = w * (f - self.target("a penalty on the loss").distribution)
            return pulled if positions == 1 else pulled / positions
        if classes == 1:
            return w * (f * (1 - f) if output == "probabilities" else 1 - f)
        if output == "probabilities":
            return f * (w - ops.sum(f * w, -1, keepdims=True))
        return w - f * ops.sum(w, -1, keepdims=True)

    def tangent(self, output: str, t: Array) -> Array:
        """A tangent t of the logits pushed to `output`, both canonical, (B, 1, 1) for the loss; differentiably."""
        ops, (batch, _, classes) = self.call.ops, self.layout.canonical
        if output == "logits":
            return t
        if output == "loss":
            ones = ops.constant([[[1.0]]], ops.dtype(self.logits), self.logits)
            slope = self.cotangent("loss", ops.broadcast_to(ones, (batch, 1, 1)))
            return ops.reshape(ops.sum(slope * t, (1, 2)), (batch, 1, 1))
        f = self.probabilities(f"a penalty on the {output}")
        if classes == 1:
            return t * (f * (1 - f) if output == "probabilities" else 1 - f)
        centred = t - ops.sum(f * t, -1, keepdims=True)
        return f * centred if output == "probabilities" else centred

    def values(self, output: str) -> Array:
        """The values of `output`, canonical, (B, 1, 1) for the loss."""
        ops, (batch, _, classes) = self.call.ops, self.layout.canonical
        if output == "logits":
            return self.logits
        if output == "loss":
            return ops.reshape(self.losses(), (batch, 1, 1))
        f = self.probabilities(f"a penalty on the {output}")
        if output == "probabilities":
            return f
        return -ops.softplus(-self.logits) if classes == 1 else ops.log_softmax(self.logits)

    def pull(self, term: JacobianPenalty) -> Pullback:
        """W in the term's output space, (B, positions, classes), to J^T w, in float32 or better."""
        ops, pullback = self.call.ops, self.pullbacks[term.at]

        def pull(w: Array) -> Array:
            cotangent = self.layout.from_canonical(ops, self.cotangent(term.output, w))
            return widened(ops, pullback(ops.astype(cotangent, ops.dtype(self.outputs))))

        return pull


def widened(ops: Backend, array: Array) -> Array:
    """Half precision as float32, so that squares of small gradients do not underflow."""
    return ops.astype(array, "float32") if is_half(ops.dtype(array)) else array


def _pulled_rows(term: JacobianPenalty, forward: Forward) -> Iterator[Array]:
    """The rows J_i^T w of every sample, a chunk (c, B, ...) at a time."""
    call, ops, layout = forward.call, forward.call.ops, forward.layout
    if term.projection.needs_classes:
        layout.require_classes(call.name, f"the projection {term.projection}")
    pull = forward.pull(term)
    context = DirectionContext(
        ops=ops,
        shape=(layout.shape[0], 1, 1) if term.output == "loss" else layout.canonical,
        logits=forward.logits,
        probabilities=lambda: forward.probabilities(f"the projection {term.projection}"),
        target=lambda: forward.target(f"the projection {term.projection}"),
        make_draws=lambda: draws_of(term, call, layout.shape[0], forward.sample_ids, forward.logits),
        pullback=pull,
        given=_given(call, layout, forward.logits),
    )
    count = term.projection.count(context.size)
    chunk = min(count, call.chunk_size or ops.default_chunk or count)
    for start in range(0, count, chunk):
        rows = term.projection.directions(context, range(start, min(start + chunk, count)))
        yield ops.pull_rows(pull, rows)


def draws_of(term: JacobianPenalty, call: Call, batch: int, ids: Array | None, like: Array) -> Draws:
    """The draws of a term for the samples of a pass, or the single draw that they share."""
    if term.draw == "per_batch":
        batch, ids = 1, None
    return make_draws(call.ops, call.seed_of(term), call.step, call.ops.arange(batch, like) if ids is None else ids)


def _given(call: Call, layout: Layout, like: Array) -> Array | None:
    """The caller's directions, with the classes last where they have the outputs' own axes."""
    if call.directions is None:
        return None
    given = call.ops.asarray(call.directions, like)
    own = layout.shape[1:]
    if layout.class_axis not in (None, -1) and call.ops.shape(given)[-len(own) :] == own:
        given = call.ops.moveaxis(given, layout.class_axis or -1, -1)
    return given


def per_sample(term: JacobianPenalty, forward: Forward) -> Array:
    """phi(||J_i^T W_i||) for each sample, shape (B,)."""
    return reduced(forward.call.ops, term, _pulled_rows(term, forward))


def reduced(ops: Backend, term: JacobianPenalty, chunks: Iterable[Array]) -> Array:
    """Phi of the norm of all rows of each sample, shape (B,), from chunks of rows (c, B, ...)."""
    partials = [norms.partial(ops, term.norm, rows) for rows in chunks]
    return term.phi.apply(ops, norms.combine(ops, term.norm, term.squared, partials))


def jacobian_rows(forward: Forward) -> Array:
    """All rows of every sample's Jacobian with respect to the input, shape (m, B, ...)."""
    term = JacobianPenalty(1.0, projection=exact())
    return forward.call.ops.concat(list(_pulled_rows(term, forward)), 0)


def require_floating(call: Call, x: Array) -> None:
    """Refuse an input that has no derivative.

    Raises:
        InputTypeError: x is of integers.
    """
    if not is_floating(call.ops.dtype(x)):
        raise InputTypeError(
            f"{call.name}: the input has dtype {call.ops.dtype(x)}, and only floating-point inputs have a gradient. "
            f"Convert it, or, for tokens, penalise with respect to an embedding: pass the rest of the network as the "
            f"model and the embedded input as x, or name the layer with at=."
        )


def forward_pass(call: Call, model: Any, x: Array, y: Any, ids: Array | None, names: tuple[str | None, ...]) -> Forward:
    """Call the model once, keeping a pullback to the input (None) and to each named activation in `names`."""
    ops = call.ops
    if None in names:
        require_floating(call, x)
    pullbacks: dict[str | None, Pullback]
    if not names:
        outputs, pullbacks = model(x), {}
    elif names == (None,):
        outputs, pullback = ops.vjp(model, x)
        pullbacks = {None: pullback}
    elif "named_activations" in ops.capabilities:
        outputs, pullbacks = ops.named_vjp(model, x, names)
    else:
        raise UnsupportedError(
            f"{call.name}: the {ops.name} backend has no names for activations (at={names[-1]!r}); "
            f"pass the head of the network as the model and the activation as x."
        )
    return make_forward(call, model, x, y, outputs, ids, pullbacks)


def make_forward(
    call: Call,
    model: Any,
    x: Array,
    y: Any,
    outputs: Any,
    ids: Array | None,
    pullbacks: dict[str | None, Pullback] | None = None,
    pushed: Any = None,
) -> Forward:
    """The outputs of a model for x, checked and brought into one layout.

    Raises:
        InputTypeError: they are not one floating-point array.
        InputError: they have no batch axis, or are not finite where reading them is free.
    """
    ops = call.ops
    if not ops.is_array(outputs) or not is_floating(ops.dtype(outputs)):
        raise InputTypeError(
            f"{call.name}: the model must return one array of floating-point outputs, got {type(outputs).__name__}"
            f"{' of ' + ops.dtype(outputs) if ops.is_array(outputs) else ''}. Wrap it: lambda x: model(x).logits, say."
        )
    batch = ops.shape(x)[0]
    layout = Layout.of(call.name, ops.shape(outputs), batch, call.class_axis)
    values = ops.values_if_free(outputs)
    if values is not None and not (values.max() < math.inf and values.min() > -math.inf):  # nor for a NaN
        sample = int((abs(values) < math.inf).reshape(batch, -1).all(-1).argmin())
        raise InputError(
            f"{call.name}: the outputs of sample {sample} are NaN or infinite; the model or its input diverged before "
            f"any penalty was computed. Lower the learning rate or look at the data."
        )
    logits = widened(ops, layout.to_canonical(ops, outputs))
    return Forward(call, y, outputs, layout, logits, pullbacks or {}, ids, model, x, pushed)
