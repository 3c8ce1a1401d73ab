"""Directions in input space: ||J_i v_i|| by one forward-mode product, or by a difference of two passes.

    penalty = weight * scale * mean_i phi(||J_i V_i||),   V_i = projection(draw_i), rows in the space of x

The penalty contains no backward pass, so its own gradient needs each layer's derivative once in each mode ("jvp"), or
its first derivative alone ("difference"). A term on the output side by difference has one direction, the gradient of
its output u, divided by its length and taken as a constant:

    penalty = weight * scale * mean_i phi(|u(x_i + h d_i) - u(x_i)| / h),   d_i = grad u / ||grad u||
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from gradreg_core.backend import Array, ModelPass, Pullback
from gradreg_core.engine import draws_of, pullback_of, reduced
from gradreg_core.errors import InputError
from gradreg_core.forward import Call, Forward, Samples, application, make_forward, require_differentiable
from gradreg_core.layout import is_half, widened
from gradreg_core.outputs import OUTPUTS
from gradreg_core.projections import DirectionContext, exact, unit
from gradreg_core.scalars import converted
from gradreg_core.spec import JacobianPenalty

__all__ = ["input_pass", "per_sample"]


def _refuse(*_: Any) -> NoReturn:
    raise AssertionError("a projection on the input side depends on the size of the input alone")


def _directions(
    term: JacobianPenalty, call: Call, x: Array, ids: Array | None, start: int = 0
) -> Iterator[Array | None]:
    """The rows of V from row `start` on, each in the shape and dtype of x; None for the direction of the gradient."""
    ops = call.ops
    if term.side == "output":
        yield from [None][start:]
        return
    shape = ops.shape(x)
    flat = (shape[0], 1, math.prod(shape[1:]))
    context = DirectionContext(
        ops=ops,
        shape=flat,
        logits=widened(ops, ops.stop_gradient(ops.reshape(x, flat))),
        probabilities=_refuse,
        target=_refuse,
        make_draws=lambda: draws_of(term, call, shape[0], ids, x),
        pullback=_refuse,
        given=None if call.directions is None else converted(ops, call.name, "directions", call.directions, x),
        components="input components",
    )
    count = term.projection.count(context.size)
    for index in range(start if count > 1 else 0, count):
        rows = term.projection.directions(context, range(index, index + 1))
        for offset in range(ops.shape(rows)[0]):  # more than one if the caller gave them
            if index + offset >= start:
                yield ops.reshape(ops.astype(rows[offset], ops.dtype(x)), shape)


def _moved_along_the_gradient(term: JacobianPenalty, call: Call, model: Any, samples: Samples) -> Callable[..., Array]:
    """A function of a pass at x that gives x + h d, with d of length 1 along the gradient of the sum of the output."""

    def moved(outputs: Array, returned: Any, pullback: Pullback) -> Array:
        ops, x = call.ops, samples.arguments.packed()
        base = make_forward(call, model, samples, ModelPass(outputs, returned, {(None, None): pullback}, {}))
        shape = OUTPUTS[term.output].shape(base)
        if term.projection == exact() and math.prod(shape[1:]) > 1:
            raise InputError(
                f"{call.name}: method='difference' follows the gradient of one number per sample, but the model has "
                f"{math.prod(shape[1:])} outputs; pass projection=ones() for the gradient of their sum."
            )
        one = ops.constant([[[1.0]]], ops.dtype(base.logits), base.logits)
        gradient = ops.stop_gradient(pullback_of(term, base)(ops.broadcast_to(one, shape)))
        d = unit(ops, ops.reshape(gradient, (shape[0], -1)))
        return x + term.h * ops.astype(ops.reshape(d, ops.shape(x)), ops.dtype(x))

    return moved


def _pass(term: JacobianPenalty, call: Call, model: Any, samples: Samples, v: Array | None) -> tuple[ModelPass, Array]:
    """One pass along v, or along the gradient: its result, and the outputs' tangent or the outputs at the moved x."""
    ops, x = call.ops, samples.arguments.packed()
    apply = application(call, samples.arguments)
    if term.method == "jvp":
        outputs, returned, tangent = ops.model_jvp(model, apply, x, v)
        return ModelPass(outputs, returned, {}, {}), tangent
    if v is None:
        along = _moved_along_the_gradient(term, call, model, samples)
        outputs, returned, moved = ops.call_along(model, apply, x, along)
    else:
        outputs, returned, moved = ops.call_twice(model, apply, x, x + term.h * v)
    for name, array in ("x", x), ("outputs", outputs):
        if is_half(ops.dtype(array)):
            raise InputError(
                f"{call.name}: method='difference' needs {name} in float32 or float64, got {ops.dtype(array)}: the "
                f"rounding enters divided by h={term.h:g}. Compute in float32, or use method='jvp'."
            )
    return ModelPass(outputs, returned, {}, {}), moved


def input_pass(term: JacobianPenalty, call: Call, model: Any, samples: Samples) -> Forward:
    """A forward pass for the loss that also pushes the first row of an input-side term."""
    x = require_differentiable(call, samples.arguments)
    passed, pushed = _pass(term, call, model, samples, next(_directions(term, call, x, samples.ids)))
    return make_forward(call, model, samples, passed, pushed=(term, pushed))


def _slope(term: JacobianPenalty, base: Forward, pushed: Array) -> Array:
    """J_i v_i of the term's output, a row (1, B, positions, classes), in float32 or better."""
    ops, output, mask = base.call.ops, OUTPUTS[term.output], base.mask()
    if term.method == "jvp":
        tangent = widened(ops, base.layout.to_canonical(ops, pushed))
        row = output.push(base, tangent)
    else:
        moved = make_forward(base.call, base.model, base.samples, ModelPass(pushed, base.returned, {}, {}))
        row = (output.value(moved) - output.value(base)) * (1 / term.h)
    if mask is not None and term.output != "loss":  # the loss counts its positions itself
        row = row * mask
    if term.side == "output":
        row = ops.sum(row, (1, 2), keepdims=True)
    return ops.reshape(row, (1, *ops.shape(row)))


def _rows(term: JacobianPenalty, forward: Forward) -> Iterator[Array]:
    call, samples = forward.call, forward.samples
    x = require_differentiable(call, samples.arguments)
    shared = forward.pushed is not None and forward.pushed[0] is term
    if shared:
        yield _slope(term, forward, forward.pushed[1])
    model = call.ops.without_state_changes(forward.model)
    for v in _directions(term, call, x, samples.ids, start=1 if shared else 0):
        passed, pushed = _pass(term, call, model, samples, v)
        yield _slope(term, make_forward(call, model, samples, passed), pushed)


def per_sample(term: JacobianPenalty, forward: Forward) -> Array:
    """phi(||J_i V_i||) for each sample, shape (B,)."""
    return reduced(forward.call.ops, term, _rows(term, forward))
