"""The target Jacobian T that a term draws the model's own towards: an array, or a teacher that is pulled back."""

import math

from gradreg_core.backend import Array
from gradreg_core.errors import InputError
from gradreg_core.forward import Call, Forward, application, make_forward
from gradreg_core.spec import JacobianPenalty, Regularizer

__all__ = ["require_target", "target_array", "teacher_pass"]


def require_target(call: Call, reg: Regularizer | None) -> None:
    """Refuse a target that no term uses, and a term without its target.

    Raises:
        InputError: a target is unused or missing.
    """
    users = []
    for term in () if reg is None else reg.terms:
        general = term.lower()
        if general is not None and general.to_target:
            users.append(term)
    if users and call.target is None:
        raise InputError(
            f"{call.name}: {users[0]!r} needs a target Jacobian; pass target=, an array (B, *outputs, *input), or a "
            f"teacher, a model that takes the same x."
        )
    if call.target is not None and not users:
        raise InputError(
            f"{call.name}: target= was given, but no term of {reg!r} uses it. Add SobolevReg(weight), or leave it out."
        )


def target_array(term: JacobianPenalty, forward: Forward, rows: Array, pulled: Array) -> Array:
    """T_i^T w for rows w (c, B, positions, classes) of W, in the shape of `pulled`, J_i^T w; from an array T.

    Raises:
        InputError: its shape is not (B, *outputs, *input).
    """
    call, ops, layout = forward.call, forward.call.ops, forward.layout
    own, inputs = () if term.output == "loss" else layout.shape[1:], ops.shape(pulled)[2:]
    T, wanted = forward.samples.target, (layout.shape[0], *own, *inputs)
    if ops.shape(T) != wanted:
        raise InputError(
            f"{call.name}: target= must have shape {wanted}, the samples, the outputs' own axes and the axes of the "
            f"input or place that they are differentiated with respect to, got {ops.shape(T)}."
        )
    T = ops.reshape(ops.astype(T, ops.dtype(pulled)), (layout.shape[0], *own, -1))
    if own and layout.class_axis not in (None, -1):
        T = ops.moveaxis(T, (layout.class_axis or -1) - 1, -2)
    count, size = ops.shape(rows)[0], math.prod(ops.shape(rows)[2:])
    T = ops.reshape(T, (layout.shape[0], size, -1))
    W = ops.moveaxis(ops.reshape(ops.astype(rows, ops.dtype(pulled)), (count, layout.shape[0], size)), 0, 1)
    return ops.reshape(ops.moveaxis(ops.matmul(W, T), 1, 0), ops.shape(pulled))


def teacher_pass(term: JacobianPenalty, forward: Forward) -> Forward:
    """A pass of the teacher at the same samples, once per forward pass; no gradient flows into it.

    Raises:
        InputError: the term uses places of the model, or the teacher has other outputs.
    """
    call, ops, teacher = forward.call, forward.call.ops, forward.samples.target
    if term.at is not None or term.of is not None:
        raise InputError(
            f"{call.name}: a teacher has its own places, so at= and of= take the target as an array; pass target= of "
            f"shape (B, *outputs, *activation), or leave at= and of= out of {term!r}."
        )
    if "teacher" not in forward._cache:
        apply, x = application(call, forward.samples.arguments), ops.stop_gradient(forward.x)
        passed = ops.model_vjp(ops.without_state_changes(teacher), apply, x, ((None, None),))
        made = make_forward(call, teacher, forward.samples, passed)
        if made.layout.shape != forward.layout.shape:
            raise InputError(
                f"{call.name}: the teacher of target= must have the outputs of the model, {forward.layout.shape}, got "
                f"{made.layout.shape}."
            )
        forward._cache["teacher"] = made
    passed_once: Forward = forward._cache["teacher"]
    return passed_once
