"""Findings of `check` that only JAX can make: an input that does not reach the outputs is a silent zero there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from gradreg_core.errors import DoubleBackwardError, GradregError, InputError
from gradreg_core.spec import JacobianTerm, Sum
from gradreg_jax.model import batch_norms, functional, repeatable

__all__ = ["diagnose", "explain"]

_REMEDIES = (
    ("Reverse-mode differentiation does not work", "Use lax.scan, or lax.fori_loop with a static number of steps."),
    ("allbacks do not support JVP", "Give the callback its derivatives with jax.custom_jvp."),
    ("Linearization failed", "Use plain JAX operations in place of a kernel, such as Pallas, or jax.custom_jvp."),
    ("ifferentiation rule", "Replace the operation, or give it its derivatives with jax.custom_jvp."),
    ("ranspose rule", "Replace the operation, or give it its derivatives with jax.custom_jvp."),
)
"""Parts of JAX's messages about operations that cannot be differentiated, and their remedies."""

Rows = list[tuple[str, str, str]]


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:200]


def explain(call: str, error: Exception) -> GradregError | None:
    """JAX's error about the model as gradreg's own, with a remedy; None if it is about something else."""
    if isinstance(error, GradregError):
        return None
    if type(error).__name__ == "TraceContextError":
        return InputError(
            f"{call}: the model changes its own state where JAX cannot follow ({_first_line(error)}). Pass the "
            f"nnx.Module itself as the model, not a function that calls it, and make or merge it inside the function "
            f"that JAX transforms, as nnx.jit and nnx.grad do."
        )
    for mark, remedy in _REMEDIES:
        if mark in str(error):
            problem = "an operation of the model has no second derivative, or not even a first"
            return DoubleBackwardError(f"{call}: {problem} ({_first_line(error)}). {remedy}")
    return None


def diagnose(calls: Any, model: Any, x: Any, y: Any, reg: Any, options: Any) -> tuple[Rows, bool]:
    """Look at the outputs' derivative and differentiate the penalty once.

    Returns:
        (level, problem, remedy) of each finding, and whether the penalty has no derivative at all.
    """
    terms = tuple(replace(term, fraction=1.0, every=1) for term in reg.terms if isinstance(term, JacobianTerm))
    if not terms:
        return [], False
    with repeatable(model):
        unreached = _reach(calls.backend, model, jnp.asarray(x))
        rows, blocked = _second_derivative(calls, model, jnp.asarray(x), y, Sum(terms), options)
    return unreached + rows, blocked


def _reach(ops: Any, model: Any, x: jax.Array) -> Rows:
    """Findings where x does not reach the outputs, or a sample reaches the outputs of others."""
    outputs, pullback = ops.vjp(model, x)
    w = jax.random.normal(jax.random.key(0), outputs.shape).astype(outputs.dtype)
    if not jnp.any(pullback(w) != 0):
        problem = "x does not reach the outputs: their derivative is exactly zero, and so is every penalty on it."
        remedy = "Look for stop_gradient, rounding, argmax or integer types on the way, or for dead or saturated units."
        return [("error", problem, remedy)]
    if not batch_norms(model) and jnp.any(pullback(w.at[1:].set(0))[1:] != 0):
        problem = "an output depends on other samples of the batch, as through batch normalisation in training mode."
        remedy = "Use GroupNorm or LayerNorm, or running averages, unless that is meant."
        return [("warning", problem, remedy)]
    return []


def _hoisted(model: Any, x: jax.Array) -> tuple[Callable[[list[Any], Any], Any], list[Any]]:
    """The model as a function of the floating-point arrays that it closes over and of x, and those arrays."""
    pure, _ = functional(model)
    try:
        traced = jax.make_jaxpr(lambda x: pure(x)[0])(x)
    except jax.errors.JAXTypeError:  # it looks at values, so it cannot be traced
        return lambda weights, x: pure(x)[0], []
    chosen = [index for index, array in enumerate(traced.consts) if jnp.issubdtype(array.dtype, jnp.floating)]

    def call(weights: list[Any], x: Any) -> Any:
        constants = list(traced.consts)
        for index, weight in zip(chosen, weights, strict=True):
            constants[index] = weight
        return jax.core.eval_jaxpr(traced.jaxpr, constants, x)[0]

    return call, [traced.consts[index] for index in chosen]


def _second_derivative(calls: Any, model: Any, x: jax.Array, y: Any, reg: Sum, options: Any) -> tuple[Rows, bool]:
    """Differentiate the penalty with respect to x and to the arrays that the model closes over."""
    call, weights = _hoisted(model, x)

    def penalty(weights: list[Any], x: Any) -> Any:
        return calls.penalty(lambda x: call(weights, x), x, y, reg, batch_norm="allow", **options)

    try:
        gradients = jax.grad(penalty, argnums=(0, 1))(weights, x)
    except Exception as error:
        explained = explain("check", error) or error
        if not isinstance(explained, DoubleBackwardError):
            raise
        return [("error", str(explained), "")], True
    if not all(bool(jnp.isfinite(gradient).all()) for gradient in jax.tree.leaves(gradients)):
        return [("error", "the penalty's gradient is NaN or infinite.", "Look for sqrt, norm or log at 0.")], False
    return [], False
