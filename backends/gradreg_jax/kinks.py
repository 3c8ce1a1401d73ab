"""Smooth stand-ins for piecewise linear functions, used by `check` alone.

A penalty on the gradient jumps where a rectifier switches. Finite differences over many rectifiers therefore do not
converge to its derivative, even if it is correct. With the switches rounded off they do, and the rest of the model
is tested as it is. gradreg traces the model, and runs its program with these operations replaced:

- `max`, `min`, `abs`, `clamp`, `reduce_max`, hence `jax.nn.relu` and `relu6`;
- `jax.nn.leaky_relu`, `hard_tanh`, `celu` and `elu`, hence `selu`;
- the maximum over windows, hence max pooling.

Operations inside loops and branches, and other rectifiers written with `where`, stay as they are.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from gradreg_core.taps import active_places
from gradreg_jax.places import TracedPlaces

__all__ = ["smoothed"]

Array = jax.Array


def smoothed(fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` with smooth rectifiers, maxima and absolute values; `fn` itself if it cannot be traced.

    It is traced when it is called, so that a place inside it can be perturbed: values recorded by `tap` are passed on.
    """

    def smooth(*args: Any, **kwargs: Any) -> Any:
        leaves, tree = jax.tree.flatten((args, kwargs))
        places = [index for index, leaf in enumerate(leaves) if isinstance(leaf, jax.Array | np.ndarray)]
        marked = active_places()

        def run(arrays: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
            given = list(leaves)
            for index, array in zip(places, arrays, strict=True):
                given[index] = array
            args, kwargs = jax.tree.unflatten(tree, given)
            with marked.rebased() if isinstance(marked, TracedPlaces) else nullcontext():
                return fn(*args, **kwargs), {} if marked is None else dict(marked.values)

        arrays = [jnp.asarray(leaves[index]) for index in places]
        try:
            traced, shape = jax.make_jaxpr(run, return_shape=True)(arrays)
        except jax.errors.JAXTypeError:  # it reads values
            return fn(*args, **kwargs)
        outputs, kept = jax.tree.unflatten(jax.tree.structure(shape), _run(traced.jaxpr, traced.consts, arrays))
        if marked is not None:
            marked.values.update(kept)
        return outputs

    return smooth


def _run(program: Any, constants: Sequence[Any], inputs: Sequence[Any]) -> list[Any]:
    """The program's outputs."""
    values: dict[Any, Any] = dict(zip(program.constvars, constants, strict=True))
    values |= zip(program.invars, inputs, strict=True)

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in program.eqns:
        results = _apply(program, equation, [read(variable) for variable in equation.invars])
        values |= zip(equation.outvars, results, strict=True)
    return [read(variable) for variable in program.outvars]


def _apply(program: Any, equation: Any, inputs: list[Any]) -> Sequence[Any]:
    """The results of one equation, smooth where it has a kink."""
    name, options = equation.primitive.name, equation.params
    smooth = _NAMED.get(options.get("name", "")) or _SMOOTH.get(name)
    if smooth is not None and jnp.issubdtype(equation.outvars[0].aval.dtype, jnp.floating):
        rounded = smooth(*inputs, **options)
        if rounded is not None:
            return [rounded]
    inner = options.get("jaxpr", options.get("call_jaxpr"))
    rectifier = name == "custom_jvp_call" and _rectifies(inner.jaxpr)
    if rectifier or name in ("jit", "pjit", "closed_call", "checkpoint", "remat2"):
        closed = hasattr(inner, "consts")
        return _run(inner.jaxpr if closed else inner, inner.consts if closed else (), inputs)
    pairs = zip(equation.invars, inputs, strict=True)
    variables = {variable: value for variable, value in pairs if isinstance(variable, core.Var)}
    alone = program.replace(
        constvars=(), invars=list(variables), outvars=equation.outvars, eqns=[equation], effects=equation.effects
    )
    return jax.core.eval_jaxpr(alone, (), *variables.values())


def _rectifies(program: Any) -> bool:
    """Whether the program is only a maximum or minimum with a number, as in jax.nn.relu."""
    names = {equation.primitive.name for equation in program.eqns}
    inner = [equation.params["jaxpr"].jaxpr for equation in program.eqns if equation.primitive.name in ("jit", "pjit")]
    plain = {"max", "min", "jit", "pjit", "convert_element_type", "broadcast_in_dim"}
    return bool(names) and names <= plain and all(map(_rectifies, inner))


def _ramp(x: Array) -> Array:
    """max(x, 0), rounded off over the scale of x itself."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    square = wide * wide
    return (0.5 * (wide + jnp.sqrt(square + square.mean() + 1e-30))).astype(x.dtype)


def _maximum(x: Array | float, y: Array, **_: Any) -> Array:
    """The larger of two, rounded off over the spread of their difference: a distant bound changes nothing."""
    finite = jnp.isfinite(x) & jnp.isfinite(y)
    apart = jnp.where(finite, x - y, 0)
    wide = apart.astype(jnp.promote_types(apart.dtype, jnp.float32))
    spread = jnp.var(wide) + 1e-30
    excess = 0.5 * spread / (jnp.sqrt(wide * wide + spread) + jnp.abs(wide))
    return jnp.maximum(x, y) + jnp.where(finite, excess, 0).astype(apart.dtype)


def _minimum(x: Array | float, y: Array, **_: Any) -> Array:
    return -_maximum(-x, -y)


def _abs(x: Array, **_: Any) -> Array:
    return 2 * _ramp(x) - x


def _leaky_relu(x: Array, slope: Any = 0.01, **_: Any) -> Array:
    return slope * x + (1 - slope) * _ramp(x)


def _hard_tanh(x: Array, **_: Any) -> Array:
    return _clamp(-1.0, x, 1.0)


def _elu(x: Array, alpha: Any = 1.0, **_: Any) -> Array:
    return _ramp(x) + alpha * jnp.expm1(-_ramp(-x))


def _celu(x: Array, alpha: Any = 1.0, **_: Any) -> Array:
    return _ramp(x) + alpha * jnp.expm1(-_ramp(-x) / alpha)


def _clamp(low: Array | float, x: Array, high: Array | float) -> Array:
    return _minimum(high, _maximum(low, x))


def _largest(x: Array, axes: Sequence[int], **_: Any) -> Array:
    """The scale of the finite components times log sum exp(x / scale); a softmax stays the same."""
    finite = jnp.where(jnp.isfinite(x), x, 0)
    scale = jnp.sqrt((finite * finite).mean()) + 1e-30
    return scale * jax.nn.logsumexp(x / scale, tuple(axes))


def _window_maximum(
    x: Array,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> Array | None:
    if any(dilation != 1 for dilation in (*base_dilation, *window_dilation)):
        return None
    x = jnp.pad(x, padding, mode="edge")  # repeating the edge adds no new maximum
    ends = [
        (size - window) // stride * stride + 1
        for size, window, stride in zip(x.shape, window_dimensions, window_strides, strict=True)
    ]
    best = None
    for place in product(*map(range, window_dimensions)):
        stop = [start + end for start, end in zip(place, ends, strict=True)]
        piece = lax.slice(x, place, stop, window_strides)
        best = piece if best is None else _maximum(piece, best)
    return best


_NAMED: dict[str, Callable[..., Array]] = {
    "leaky_relu": _leaky_relu,
    "hard_tanh": _hard_tanh,
    "elu": _elu,
    "celu": _celu,
}
"""Functions of `jax.nn` written with `where`."""
_SMOOTH: dict[str, Callable[..., Array | None]] = {
    "max": _maximum,
    "min": _minimum,
    "abs": _abs,
    "clamp": _clamp,
    "reduce_max": _largest,
    "reduce_window_max": _window_maximum,
}
