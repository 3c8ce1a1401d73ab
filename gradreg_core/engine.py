"""The one formula, written once over the backend protocol.

    penalty = weight * scale * mean_i phi(||J_i^T W_i||),   W_i = projection(z_i, y_i, draw_i)

J^T w is the pullback of w through the model, so a Jacobian is formed only where all its rows are asked for. The
pullback through the output map (softmax, log-softmax, loss) comes first and stays differentiable. Directions in input
space, ||J_i V_i||, are in :mod:`gradreg_core.input_side`.
"""

from collections.abc import Iterable, Iterator

from gradreg_core.backend import Array, Backend, Pullback
from gradreg_core.errors import InputError
from gradreg_core.forward import Call, Forward
from gradreg_core.layout import Layout, widened
from gradreg_core.norms import NORMS
from gradreg_core.outputs import OUTPUTS
from gradreg_core.projections import DirectionContext, exact
from gradreg_core.random import Draws, make_draws
from gradreg_core.scalars import converted
from gradreg_core.spec import JacobianPenalty
from gradreg_core.targets import target_array, teacher_pass

__all__ = ["draws_of", "jacobian_rows", "per_sample", "pullback_of", "reduced"]


def pullback_of(term: JacobianPenalty, forward: Forward) -> Pullback:
    """The pullback of W in the term's output space, (B, positions, classes), to J^T w, in float32 or better."""
    ops, layout = forward.call.ops, forward.layout
    output, pullback, mask = OUTPUTS[term.output], forward.pullbacks[term.of, term.at], forward.mask()

    def pull(w: Array) -> Array:
        pulled = output.pull(forward, w)
        cotangent = layout.from_canonical(ops, pulled if mask is None else pulled * mask)
        return widened(ops, pullback(ops.astype(cotangent, ops.dtype(forward.outputs))))

    return pull


def _pulled_rows(term: JacobianPenalty, forward: Forward) -> Iterator[Array]:
    """The rows J_i^T w of every sample, a chunk (c, B, ...) at a time."""
    forward = forward.place(term.of)
    call, ops, layout = forward.call, forward.call.ops, forward.layout
    if term.projection.needs_classes:
        layout.require_classes(call.name, f"the projection {term.projection}")
    pull = pullback_of(term, forward)
    context = DirectionContext(
        ops=ops,
        shape=OUTPUTS[term.output].shape(forward),
        logits=forward.logits,
        probabilities=lambda: forward.probabilities(f"the projection {term.projection}"),
        target=lambda: forward.target(f"the projection {term.projection}"),
        make_draws=lambda: draws_of(term, call, layout.shape[0], forward.sample_ids, forward.logits),
        pullback=pull,
        given=_given(call, layout, forward.logits),
        mask=None if term.output == "loss" else _flat_mask(forward),
        position_share=forward.position_share,
    )
    count = term.projection.count(context.size)
    chunk = min(count, call.chunk_size or ops.default_chunk or count)
    for start in range(0, count, chunk):
        rows = term.projection.directions(context, range(start, min(start + chunk, count)))
        pulled = ops.pull_rows(pull, rows)
        yield pulled - _target_rows(term, forward, rows, pulled) if term.to_target else pulled


def _target_rows(term: JacobianPenalty, forward: Forward, rows: Array, pulled: Array) -> Array:
    """T_i^T w for `rows` of W, a constant in the shape of `pulled`, J_i^T w."""
    ops = forward.call.ops
    if callable(forward.samples.target):
        pull = pullback_of(term, teacher_pass(term, forward))
        try:
            return ops.stop_gradient(ops.pull_rows(pull, rows))
        except InputError as error:
            raise InputError(
                f"{forward.call.name}: the teacher of target= cannot be differentiated: {error}"
            ) from error
    mask = forward.mask()
    counted = rows if mask is None or term.output == "loss" else rows * mask
    return ops.stop_gradient(target_array(term, forward, counted, pulled))


def _flat_mask(forward: Forward) -> Array | None:
    """`Forward.mask` for every component, (B, m)."""
    ops, mask, (batch, positions, classes) = forward.call.ops, forward.mask(), forward.layout.canonical
    if mask is None:
        return None
    return ops.reshape(ops.broadcast_to(mask, (batch, positions, classes)), (batch, positions * classes))


def draws_of(term: JacobianPenalty, call: Call, batch: int, ids: Array | None, like: Array) -> Draws:
    """The draws of a term for the samples of a pass, or the single draw that they share."""
    if term.draw == "per_batch":
        batch, ids = 1, None
    return make_draws(call.ops, call.seed_of(term), call.step, call.ops.arange(batch, like) if ids is None else ids)


def _given(call: Call, layout: Layout, like: Array) -> Array | None:
    """The caller's directions, with the classes last where they have the outputs' own axes."""
    if call.directions is None:
        return None
    given = converted(call.ops, call.name, "directions", call.directions, like)
    own = layout.shape[1:]
    if layout.class_axis not in (None, -1) and call.ops.shape(given)[-len(own) :] == own:
        given = call.ops.moveaxis(given, layout.class_axis or -1, -1)
    return given


def per_sample(term: JacobianPenalty, forward: Forward) -> Array:
    """phi(||J_i^T W_i||) for each sample, shape (B,)."""
    return reduced(forward.call.ops, term, _pulled_rows(term, forward))


def reduced(ops: Backend, term: JacobianPenalty, chunks: Iterable[Array]) -> Array:
    """Phi of the norm of all rows of each sample, shape (B,), from chunks of rows (c, B, ...)."""
    return term.phi.apply(ops, NORMS[term.norm](ops, chunks, term.squared))


def jacobian_rows(forward: Forward) -> Array:
    """All rows of every sample's Jacobian with respect to the input, shape (m, B, ...)."""
    term = JacobianPenalty(1.0, projection=exact())
    return forward.call.ops.concat(list(_pulled_rows(term, forward)), 0)
