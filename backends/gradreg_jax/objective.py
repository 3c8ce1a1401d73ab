"""A scalar of a model as a function of its weights too, for `check`: traced once, compiled once."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from gradreg_core.objective import Gradients, Objective, OfInput, Scalar
from gradreg_core.preflight.references import references
from gradreg_jax.programs import compiled_once, inner_program, run_equation

__all__ = ["JaxObjective", "draws_numbers", "objective"]

_LARGEST = 1e6
"""Arrays with larger or infinite numbers are masks."""


def objective(ops: Any, model: Any, fn: Scalar, reach: Scalar, x: Any, data: Sequence[Any]) -> Objective:
    """The objective; of the input alone if the model reads values and cannot be traced."""
    try:
        return JaxObjective(model, fn, reach, x, data)
    except jax.errors.JAXTypeError:
        return OfInput(ops, fn)


class JaxObjective(Objective):
    """See :class:`gradreg_core.objective.Objective`.

    The weights are the floating-point arrays, data of the call excepted, that the program of the outputs holds as
    constants: a model in JAX is a function that closes over its parameters.
    """

    def __init__(self, model: Any, fn: Scalar, reach: Scalar, x: Any, data: Sequence[Any]) -> None:
        self._value, self._reach = jax.make_jaxpr(fn)(x), jax.make_jaxpr(reach)(x)
        excluded = {_identity(array) for array in data}
        chosen: dict[Any, Any] = {}
        for constant in _constants(self._reach):
            if _identity(constant) not in excluded and _is_weight(constant):
                chosen.setdefault(_identity(constant), constant)
        self._keys = list(chosen)
        self.weights = [jnp.asarray(constant) for constant in chosen.values()]
        names = _names(model)
        self.names = [names.get(key, f"an array of shape {constant.shape}") for key, constant in chosen.items()]
        run = self._function(self._value)

        def scaled(weights: Sequence[Any], x: Any, scale: Any) -> tuple[Any, Any]:
            value = run(weights, x)
            return value * scale.astype(value.dtype), value

        self._derive = jax.jit(jax.grad(scaled, (0,) if x is None else (0, 1), has_aux=True))
        self._x = x

    def _function(self, program: Any) -> Callable[[Sequence[Any], Any], Any]:
        """The program as a function of the weights and of x."""

        def run(weights: Sequence[Any], x: Any) -> Any:
            given = dict(zip(self._keys, weights, strict=True))
            return _evaluated(program, [] if x is None else [x], given)[0]

        return run

    def gradients(self, x: Any, scale: float = 1.0) -> Gradients:
        (of_weights, *of_input), value = self._derive(self.weights, x, jnp.float32(scale))
        return value, of_weights, of_input[0] if of_input else None

    def gradients_once(self, x: Any) -> Gradients:
        weights = set(self._keys)
        others = {_identity(array): array for array in _constants(self._value) if _identity(array) not in weights}
        keys = [*self._keys, *others]

        def value(weights: Sequence[Any], others: Sequence[Any], x: Any) -> Any:
            given = dict(zip(keys, [*weights, *others], strict=True))
            return _evaluated(self._value, [] if x is None else [x], given)[0]

        result, gradients = compiled_once(jax.value_and_grad(value), self.weights, list(others.values()), x)
        return result, gradients, None

    def at(self, weights: Sequence[Any], x: Any) -> Any:
        # A second program, without the gradients, would take longer to compile than it saves.
        return self._derive(list(weights), x, jnp.float32(1.0))[1]

    def reached(self) -> Sequence[bool]:
        return self._is_reached

    @cached_property
    def _is_reached(self) -> list[bool]:
        gradients = jax.jit(jax.grad(self._function(self._reach)))(self.weights, self._x)
        return [bool(jnp.any(gradient != 0)) for gradient in gradients]


def draws_numbers(run: Callable[[], Any]) -> bool:
    """Whether run() draws random numbers; see :meth:`gradreg_core.backend.Backend.draws_numbers`."""
    try:
        return "random_" in (text := str(jax.make_jaxpr(run)())) or "threefry" in text or "rng_" in text
    except jax.errors.JAXTypeError:  # it reads values
        return True


def _identity(array: Any) -> Any:
    """A key that identifies an array. JAX copies NumPy's arrays while it traces, so theirs is the content."""
    if isinstance(array, np.ndarray):
        return array.shape, str(array.dtype), np.asarray(array).tobytes()
    return id(array)


def _is_weight(constant: Any) -> bool:
    floating = hasattr(constant, "dtype") and jnp.issubdtype(constant.dtype, jnp.floating)
    if not floating or isinstance(constant, jax.core.Tracer) or not constant.size:
        return False
    return bool(jnp.all(jnp.abs(constant) < _LARGEST))


def _constants(closed: Any) -> Iterator[Any]:
    """The constants of a program and of those inside it."""
    yield from getattr(closed, "consts", ())
    for equation in getattr(closed, "jaxpr", closed).eqns:
        inner = inner_program(equation)
        if inner is not None:
            yield from _constants(inner)


def _evaluated(closed: Any, inputs: Sequence[Any], given: dict[Any, Any]) -> list[Any]:
    """The results of a program with other values for some of its constants, by identity."""
    program, constants = getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())
    values = {
        variable: given.get(_identity(constant), constant)
        for variable, constant in zip(program.constvars, constants, strict=True)
    }
    values |= zip(program.invars, inputs, strict=True)

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in program.eqns:
        arguments, inner = list(map(read, equation.invars)), inner_program(equation)
        if inner is not None:
            results = _evaluated(inner, arguments, given)
        else:
            results = run_equation(program, equation, arguments)
        values |= zip(equation.outvars, results, strict=True)
    return list(map(read, program.outvars))


def _names(model: Any) -> dict[Any, str]:
    """The names of the arrays on the model and in what it closes over, by identity."""
    names: dict[Any, str] = {}
    for prefix, owner in references(model):
        try:
            pairs = jax.tree_util.tree_flatten_with_path(owner)[0]
        except (TypeError, ValueError):  # keys that cannot be sorted
            continue
        for path, leaf in pairs:
            if isinstance(leaf, jax.Array | np.ndarray):
                name = jax.tree_util.keystr(path, simple=True, separator=".")
                names.setdefault(_identity(leaf), f"{prefix}.{name}".strip("."))
    return names
