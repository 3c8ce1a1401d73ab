"""JAX's errors about operations that cannot be differentiated, explained."""

from collections.abc import Sequence
from typing import Any

import jax

from gradreg_core.errors import DoubleBackwardError, GradregError, InputError, InputTypeError
from gradreg_core.preflight.references import references

__all__ = ["blame", "explain", "how_it_runs"]

_REMEDIES = (
    (
        "Reverse-mode differentiation does not work",
        "Use lax.scan, or lax.fori_loop with a static number of steps; for a solver of diffrax, "
        "adjoint=diffrax.DirectAdjoint().",
    ),
    (
        "nexpected tangent",
        "Its custom derivative, from Equinox, cannot be differentiated again: write it with jax.custom_jvp, or leave "
        "it to JAX. An example is diffrax.BacksolveAdjoint; use adjoint=diffrax.DirectAdjoint().",
    ),
    (
        "nexpected cotangent",
        "It has only a forward-mode derivative: use an operation with both, such as lax.scan in place of a loop; for a "
        "solver of diffrax, adjoint=diffrax.DirectAdjoint().",
    ),
    ("allbacks do not support JVP", "Give the callback its derivatives with jax.custom_jvp."),
    ("Linearization failed", "Use plain JAX operations in place of a kernel, such as Pallas, or jax.custom_jvp."),
    ("ifferentiation rule", "Replace the operation, or give it its derivatives with jax.custom_jvp."),
    ("ranspose rule", "Replace the operation, or give it its derivatives with jax.custom_jvp."),
)
"""Parts of JAX's messages about operations that cannot be differentiated, and their remedies."""

_NO_SECOND = "an operation of the model has no second derivative, or no derivative at all"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def explain(call: str, error: Exception) -> GradregError | None:
    """JAX's error about the model as gradreg's own, with a remedy; None if it is about something else."""
    if isinstance(error, InputTypeError) and "got tuple" in str(error):
        return InputTypeError(
            f"{error} If a function returns (outputs, new state), as net.apply(..., mutable=[...]) of Linen does, pass "
            f"Stateful(lambda x, state: net.apply({{'params': params, **state}}, x, mutable=['batch_stats']), state) "
            f"from gradreg_jax.model, which passes the state on."
        )
    if isinstance(error, GradregError):
        return None
    if type(error).__name__ == "TraceContextError":
        return InputError(
            f"{call}: the model changes its own state where JAX cannot follow ({_first_line(error)}). Pass the "
            f"nnx.Module itself as the model, not a function that calls it, and create or merge it inside the function "
            f"that JAX transforms, as nnx.jit and nnx.grad do."
        )
    for mark, remedy in _REMEDIES:
        if mark in str(error):
            return DoubleBackwardError(f"{call}: {_NO_SECOND} ({_first_line(error)}). {remedy}")
    return None


def blame(error: Exception) -> list[tuple[str, str]]:
    """The operation without a second derivative; see :meth:`gradreg_core.backend.Backend.blame`."""
    cause = error.__cause__ if isinstance(error, DoubleBackwardError) and error.__cause__ is not None else error
    for mark, remedy in _REMEDIES:
        if mark in str(cause):
            return [(f"{_NO_SECOND} ({_first_line(cause)}).", remedy)]
    return []


def how_it_runs(model: Any, arrays: Sequence[Any]) -> list[str]:
    """Notes on what is compiled or on several devices; see :meth:`gradreg_core.backend.Backend.how_it_runs`."""
    notes, owners = [], list(references(model))
    compiled = [name or "the model" for name, owner in owners if isinstance(owner, jax.stages.Wrapped)]
    if compiled:
        notes.append(f"jax.jit compiles {', '.join(dict.fromkeys(compiled))}.")
    leaves = [leaf for _, owner in owners for leaf in jax.tree.leaves(owner) if isinstance(leaf, jax.Array)]
    for kind, group in (("the call", arrays), ("the model", leaves)):
        group = [array for array in group if isinstance(array, jax.Array)]
        shared = [array for array in group if len(array.sharding.device_set) > 1]
        if shared:
            count = max(len(array.sharding.device_set) for array in shared)
            split = sum(not array.sharding.is_fully_replicated for array in shared)
            notes.append(f"{split} of {len(group)} arrays of {kind} are split over {count} devices.")
    return notes
