"""The one formula, written once over the backend protocol.

    penalty = weight * scale * mean_i phi(||J_i^T W_i||),   W_i = projection(z_i, y_i, draw_i)

J^T w is the pullback of w through the model, so no Jacobian is formed unless all its rows are asked for. The pullback
through the output map (softmax, log-softmax, loss) comes first and stays differentiable.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from gradreg_core import norms
from gradreg_core.backend import Array, Backend, Pullback
from gradreg_core.errors import InputError, InputTypeError, UnsupportedError
from gradreg_core.labels import Layout, Target, is_floating, is_integer, prepare_target
from gradreg_core.presets import ConfidencePenalty, WeightDecay
from gradreg_core.projections import DirectionContext, exact
from gradreg_core.random import STREAM_SUBSET, Draws
from gradreg_core.spec import JacobianPenalty, JacobianTerm, Regularizer, Term

__all__ = ["Call", "Evaluation", "Forward", "Options", "evaluate", "forward_pass", "jacobian_rows", "per_sample"]


class Options(TypedDict, total=False):
    """The keyword arguments that all calls take; :class:`gradreg_core.frontend.Frontend` describes them."""

    step: Any
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
    """The arguments of one call that do not depend on the term; see :class:`gradreg_core.frontend.Frontend`."""

    ops: Backend
    name: str
    step: Any = 0
    loss_fn: Callable[[Array, Any], Array] | None = None
    sample_ids: Any = None
    sample_weight: Any = None
    normalizer: Any = None
    class_axis: int | None = None
    directions: Any = None
    params: Any = None
    chunk_size: int | None = None


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
    sample_ids: Array
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
        y = self.target("the cross-entropy loss").distribution
        z = self.logits
        each = ops.softplus(z) - y * z if classes == 1 else -(y * ops.log_softmax(z))
        return ops.sum(each, (1, 2)) / positions

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
        losses = _widened(ops, losses)
        return ops.sum(ops.reshape(losses, (batch, -1)), 1) / max(1, math.prod(shape[1:]))

    def cotangent(self, output: str, w: Array) -> Array:
        """A direction w in the space of `output` pulled back to the logits, both canonical, differentiably."""
        ops, (batch, positions, classes) = self.call.ops, self.layout.canonical
        if output == "logits":
            return w
        if output == "loss" and self.call.loss_fn is not None:
            _, pullback = ops.vjp(self._custom_losses, self.outputs)
            pulled = pullback(ops.reshape(w, (batch,)))
            return _widened(ops, self.layout.to_canonical(ops, pulled))
        f = self.probabilities(f"a penalty on the {output}")
        if output == "loss":
            return w * (f - self.target("a penalty on the loss").distribution) / positions
        if classes == 1:
            return w * (f * (1 - f) if output == "probabilities" else 1 - f)
        if output == "probabilities":
            return f * (w - ops.sum(f * w, -1, keepdims=True))
        return w - f * ops.sum(w, -1, keepdims=True)

    def pull(self, term: JacobianPenalty) -> Pullback:
        """W in the term's output space, (B, positions, classes), to J^T w, in float32 or better."""
        ops, pullback = self.call.ops, self.pullbacks[term.at]

        def pull(w: Array) -> Array:
            cotangent = self.layout.from_canonical(ops, self.cotangent(term.output, w))
            return _widened(ops, pullback(ops.astype(cotangent, ops.dtype(self.outputs))))

        return pull


def _widened(ops: Backend, array: Array) -> Array:
    """Half precision as float32, so that squares of small gradients do not underflow."""
    return ops.astype(array, "float32") if ops.dtype(array) in ("float16", "bfloat16") else array


def _pulled_rows(term: JacobianPenalty, forward: Forward) -> Iterator[Array]:
    """The rows J_i^T w of every sample, a chunk (c, B, ...) at a time."""
    call, ops, layout = forward.call, forward.call.ops, forward.layout
    if term.projection.needs_classes:
        layout.require_classes(call.name, f"the projection {term.projection}")
    ids = forward.sample_ids
    pull = forward.pull(term)
    context = DirectionContext(
        ops=ops,
        shape=(layout.shape[0], 1, 1) if term.output == "loss" else layout.canonical,
        logits=forward.logits,
        probabilities=lambda: forward.probabilities(f"the projection {term.projection}"),
        target=lambda: forward.target(f"the projection {term.projection}"),
        draws=Draws(ops, term.seed, call.step, ids[:1] * 0 if term.draw == "per_batch" else ids),
        pullback=pull,
        given=_given(call, layout, forward.logits),
    )
    count = term.projection.count(context.size)
    chunk = min(count, call.chunk_size or ops.default_chunk or count)
    for start in range(0, count, chunk):
        rows = term.projection.directions(context, range(start, min(start + chunk, count)))
        yield ops.pull_rows(pull, rows)


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
    ops = forward.call.ops
    partials = [norms.partial(ops, term.norm, rows) for rows in _pulled_rows(term, forward)]
    return term.shape.apply(ops, norms.combine(ops, term.norm, term.squared, partials))


def jacobian_rows(forward: Forward) -> Array:
    """All rows of every sample's Jacobian with respect to the input, shape (m, B, ...)."""
    term = JacobianPenalty(1.0, projection=exact())
    return forward.call.ops.concat(list(_pulled_rows(term, forward)), 0)


def _confidence(forward: Forward) -> Array:
    """sum_k f_k log f_k of each sample, averaged over its positions, shape (B,)."""
    ops, (_, positions, classes) = forward.call.ops, forward.layout.canonical
    forward.layout.require_classes(forward.call.name, "ConfidencePenalty")
    z = forward.logits
    if classes == 1:
        f = ops.sigmoid(z)
        each = -f * ops.softplus(-z) - (1 - f) * ops.softplus(z)
    else:
        each = ops.softmax(z) * ops.log_softmax(z)
    return ops.sum(each, (1, 2)) / positions


def _weight_decay(call: Call, model: Any, like: Array) -> Array:
    """1/2 sum ||w||^2 over parameters with two or more axes, a scalar."""
    ops = call.ops
    params = ops.leaves(call.params) if call.params is not None else ops.parameters(model)
    if params is None:
        raise InputError(
            f"{call.name}: WeightDecay cannot see the parameters of a {type(model).__name__}; pass params=."
        )
    total = ops.constant(0.0, ops.dtype(like), like)
    for param in params:
        if len(ops.shape(param)) >= 2:
            wide = _widened(ops, param)
            total = total + 0.5 * ops.sum(wide * wide, tuple(range(len(ops.shape(param)))))
    return total


@dataclass(frozen=True)
class _Mean:
    """sum_i w_i v_i / normalizer over the whole batch."""

    ops: Backend
    batch: int
    weight: Array | None
    normalizer: Any

    @classmethod
    def of(cls, call: Call, batch: int, like: Array) -> "_Mean":
        ops, weight = call.ops, None
        normalizer: Any = float(batch)
        if call.sample_weight is not None:
            given = ops.asarray(call.sample_weight, like)
            if ops.shape(given) != (batch,):
                raise InputError(f"{call.name}: sample_weight must have shape ({batch},), got {ops.shape(given)}.")
            values = ops.host(given)
            if values is not None and not (values >= 0).all():
                raise InputError(f"{call.name}: sample_weight must be at least 0 everywhere, and not NaN.")
            weight = ops.astype(given, ops.dtype(like))
            total = ops.sum(weight, 0)
            normalizer = ops.where(total > 0, total, 1.0)
        if call.normalizer is not None:
            normalizer = call.normalizer
            if isinstance(normalizer, int | float) and not (math.isfinite(normalizer) and normalizer > 0):
                raise InputError(f"{call.name}: normalizer must be a finite number above 0, got {normalizer!r}.")
        return cls(ops, batch, weight, normalizer)

    def __call__(self, values: Array, indices: Array | None = None) -> Array:
        """The mean of values (B,), or its unbiased estimate from the part of the batch at `indices`."""
        ops = self.ops
        weight = self.weight if self.weight is None or indices is None else ops.take(self.weight, indices)
        total = ops.sum(values if weight is None else weight * values, 0)
        if indices is not None:
            total = total * (self.batch / ops.shape(indices)[0])
        return total / self.normalizer


def forward_pass(call: Call, model: Any, x: Array, y: Any, ids: Array, names: tuple[str | None, ...]) -> Forward:
    """Call the model once, keeping a pullback to the input (None) and to each named activation in `names`."""
    ops = call.ops
    if None in names and not is_floating(ops.dtype(x)):
        raise InputTypeError(
            f"{call.name}: the input has dtype {ops.dtype(x)}, and only floating-point inputs have a gradient. "
            f"Convert it, or, for tokens, penalise with respect to an embedding: pass the rest of the network as the "
            f"model and the embedded input as x, or name the layer with at=."
        )
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
    return _forward(call, y, outputs, pullbacks, ids, ops.shape(x)[0])


def _forward(
    call: Call, y: Any, outputs: Any, pullbacks: dict[str | None, Pullback], ids: Array, batch: int
) -> Forward:
    ops = call.ops
    if not ops.is_array(outputs) or not is_floating(ops.dtype(outputs)):
        raise InputTypeError(
            f"{call.name}: the model must return one array of floating-point outputs, got {type(outputs).__name__}"
            f"{' of ' + ops.dtype(outputs) if ops.is_array(outputs) else ''}. Wrap it: lambda x: model(x).logits, say."
        )
    layout = Layout.of(call.name, ops.shape(outputs), batch, call.class_axis)
    values = ops.host(outputs)
    finite = None if values is None else abs(values) < math.inf
    if finite is not None and not finite.all():
        sample = int(finite.reshape(batch, -1).all(-1).argmin())
        raise InputError(
            f"{call.name}: the outputs of sample {sample} are NaN or infinite; the model or its input diverged before "
            f"any penalty was computed. Lower the learning rate or look at the data."
        )
    logits = _widened(ops, layout.to_canonical(ops, outputs))
    return Forward(call, y, outputs, layout, logits, pullbacks, ids)


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` computed."""

    loss: Array | None
    penalties: tuple[Array, ...]
    outputs: Any


def _ids(call: Call, batch: int, x: Array) -> Array:
    ops = call.ops
    if call.sample_ids is None:
        return ops.arange(batch, x)
    ids = ops.asarray(call.sample_ids, x)
    if ops.shape(ids) != (batch,) or not is_integer(ops.dtype(ids)):
        raise InputError(
            f"{call.name}: sample_ids must be {batch} integers, one for each sample, got {ops.dtype(ids)} of shape "
            f"{ops.shape(ids)}."
        )
    return ops.int32(ids, x)


def _part_order(call: Call, term: JacobianTerm, ids: Array) -> Array:
    """A random order of the batch; its first samples are the part that `fraction` penalises."""
    words = Draws(call.ops, term.seed, call.step, ids).words(STREAM_SUBSET, (0,), 1)
    return call.ops.argsort(words[0, :, 0])


def _is_due(call: Call, term: Term) -> bool:
    """Whether the term may cost anything at this step, as far as can be told without reading a device."""
    weight = term.weight_at(call.step)
    zero = isinstance(weight, int | float) and weight == 0
    return not zero and not (term.every > 1 and isinstance(call.step, int) and call.step % term.every)


def evaluate(call: Call, model: Any, x: Array, y: Any, reg: Regularizer | None, with_loss: bool) -> Evaluation:
    """The loss (if asked for) and the penalty of every term, with as few passes as the terms allow.

    Terms over the whole batch share one forward pass with the loss. Where the only Jacobian terms are over one part of
    the batch, the batch is split into the part and the rest: no sample is forwarded twice.
    """
    ops = call.ops
    call = replace(call, step=_checked_step(call, x))
    terms = () if reg is None else reg.terms
    due = [term for term in terms if _is_due(call, term)]
    batch = ops.shape(x)[0]
    ids = _ids(call, batch, x)
    whole_names: list[str | None] = []
    parts: dict[tuple[float, int], list[JacobianTerm]] = {}
    for term in due:
        if isinstance(term, JacobianTerm):
            if math.ceil(term.fraction * batch) >= batch:
                whole_names += [term.at] if term.at not in whole_names else []
            else:
                parts.setdefault((term.fraction, term.seed), []).append(term)
    if parts and call.directions is not None:
        raise InputError(f"{call.name}: directions= in the call and fraction < 1 do not go together.")
    forwards: dict[tuple[float, int], tuple[Forward, Array]] = {}
    needs_whole = with_loss or whole_names or any(isinstance(term, ConfidencePenalty) for term in due)
    whole = None
    split = needs_whole and len(parts) == 1 and not whole_names
    if needs_whole and not split:
        whole = forward_pass(call, model, x, y, ids, tuple(whole_names))
    for key, members in parts.items():
        count = math.ceil(key[0] * batch)
        order = _part_order(call, members[0], ids)
        chosen = order[:count]
        labels = None if y is None else ops.take(ops.asarray(y, x), chosen)
        names = tuple(dict.fromkeys(term.at for term in members))
        part = forward_pass(call, model, ops.take(x, chosen), labels, ops.take(ids, chosen), names)
        forwards[key] = (part, chosen)
        if split:
            rest = model(ops.take(x, order[count:]))
            outputs = ops.take(ops.concat([part.outputs, rest], 0), ops.argsort(order))
            whole = _forward(call, y, outputs, {}, ids, batch)
    like = next((each.logits for each in (whole, *(pair[0] for pair in forwards.values())) if each is not None), x)
    mean = _Mean.of(call, batch, like)

    def value(term: Term) -> Array:
        """The penalty without weight."""
        if isinstance(term, WeightDecay):
            return _weight_decay(call, model, like)
        if isinstance(term, ConfidencePenalty):
            assert whole is not None
            return mean(_confidence(whole))
        if not isinstance(term, JacobianTerm):
            raise UnsupportedError(f"{call.name}: {term!r} is no term that the engine knows.")
        lowered = term.lower()
        pair = forwards.get((term.fraction, term.seed))
        if pair is not None:
            return mean(per_sample(lowered, pair[0]), pair[1]) * lowered.scale
        assert whole is not None
        return mean(per_sample(lowered, whole)) * lowered.scale

    def charged(term: Term) -> Array:
        """The penalty with weight, 0 where it is not due."""
        if not any(term is each for each in due):
            return ops.constant(0.0, "float32" if not is_floating(ops.dtype(like)) else ops.dtype(like), like)
        if isinstance(call.step, int) or term.every == 1:
            bare = value(term)
        else:
            bare = ops.cond(call.step % term.every == 0, lambda: value(term))
        return bare * term.weight_at(call.step) * term.every

    loss = None
    if with_loss:
        assert whole is not None
        loss = mean(whole.losses())
    penalties = tuple(charged(term) for term in terms)
    return Evaluation(loss, penalties, None if whole is None else whole.outputs)


def _checked_step(call: Call, x: Array) -> Any:
    """The step as a Python int where that costs nothing, else as it came."""
    static = call.ops.static_int(call.step)
    if static is None:
        if isinstance(call.step, int) and not isinstance(call.step, bool):
            return call.ops.int32(call.step, x)  # an int that a compiler traces: a branch on it would recompile
        if not call.ops.is_array(call.step):
            raise InputTypeError(f"{call.name}: step must be an integer, got {call.step!r}.")
        return call.step
    if static < 0:
        raise InputError(f"{call.name}: step must be at least 0, got {static}.")
    return static
