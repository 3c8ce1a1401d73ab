"""The one formula, written once over the backend protocol.

    penalty = weight * scale * mean_i phi(||J_i^T W_i||),   W_i = projection(z_i, y_i, draw_i)

J^T w is the pullback of w through the model, so a Jacobian is formed only if all its rows are requested. The
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
from gradreg_core.random import Draws, make_draws, numbered
from gradreg_core.scalars import converted
from gradreg_core.spec import JacobianPenalty
from gradreg_core.targets import target_array, teacher_pass

__all__ = ["draws_of", "jacobian_rows", "per_sample", "pullback_of", "reduced"]


def pullback_of(term: JacobianPenalty, forward: Forward) -> Pullback:
    """The pullback of W in the term's output space, (B, positions, classes), to J^T w, in float32 or better."""
    ops, layout, dtype = forward.call.ops, forward.layout, forward.dtype
    output, pullback, mask = OUTPUTS[term.output], forward.pullbacks[term.of, term.at], forward.mask()

    def pull(w: Array) -> Array:
        pulled = output.pull(forward, w)
        cotangent = layout.from_canonical(ops, pulled if mask is None else pulled * mask)
        return widened(ops, pullback(cotangent if ops.dtype(cotangent) == dtype else ops.astype(cotangent, dtype)))

    return pull


def _pulled_rows(term: JacobianPenalty, forward: Forward) -> Iterator[Array]:
    """The rows J_i^T w of every sample, a chunk (c, B, ...) at a time."""
    forward = forward if term.of is None else forward.place(term.of)
    call, ops, layout = forward.call, forward.call.ops, forward.layout
    if term.projection.needs_classes:
        layout.require_classes(call.name, term.asker)
    pull, weighed = pullback_of(term, forward), forward.position_weight is not None
    context = DirectionContext(
        ops=ops,
        shape=OUTPUTS[term.output].shape(forward),
        logits=forward.logits,
        probabilities=lambda: forward.probabilities(term.asker),
        target=lambda: forward.target(term.asker),
        make_draws=lambda: draws_of(term, call, layout.shape[0], forward.sample_ids, forward.logits),
        pullback=pull,
        given=None if call.directions is None else _given(call, layout, forward.logits),
        mask=_flat_mask(forward) if weighed and term.output != "loss" else None,
        position_share=forward.position_share if weighed else None,
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


def _flat_mask(forward: Forward) -> Array:
    """`Forward.mask` for every component, (B, m)."""
    ops, mask, (batch, positions, classes) = forward.call.ops, forward.mask(), forward.layout.canonical
    return ops.reshape(ops.broadcast_to(mask, (batch, positions, classes)), (batch, positions * classes))


def draws_of(term: JacobianPenalty, call: Call, batch: int, ids: Array | None, like: Array) -> Draws:
    """The draws of a term for the samples of a pass, or the single draw that they share."""
    if term.draw == "per_batch":
        batch, ids = 1, None
    seed = term.seed if call.seed is None else call.seed
    if ids is None:
        ids = numbered(batch) if call.ops.draws_on_host(like) else call.ops.arange(batch, like)
    return make_draws(call.ops, seed, call.step, ids, like)


def _given(call: Call, layout: Layout, like: Array) -> Array:
    """The caller's directions, with the classes last if they have the outputs' own axes."""
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
