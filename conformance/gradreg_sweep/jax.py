"""JAX under the sweep: `jax.grad` of `jax.grad`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.signal
import jax.scipy.stats
import numpy as np

from gradreg_jax.versions import enable_x64
from gradreg_sweep.enumeration import Patterns, enumerate_functions
from gradreg_sweep.framework import Framework
from gradreg_sweep.jax_ops import OPERATIONS
from gradreg_sweep.operation import Operation, Syntax
from gradreg_sweep.problem import Problem

__all__ = ["FRAMEWORK"]


class _JaxProblem(Problem):
    """All derivatives come from one program, because compilation takes most of the time.

    Float64 is switched on only during the problem's own calls, and off if its dtype is lower.
    """

    def context(self) -> AbstractContextManager[Any]:
        return enable_x64(self.dtype == "float64")

    def native(self, arrays: Mapping[str, np.ndarray]) -> list[jax.Array]:
        return [jnp.asarray(arrays[name], self.dtype) for name in self.names]

    constants = native

    def reverse(self, function: Callable[..., Any], arrays: Sequence[Any]) -> Sequence[Any]:
        return jax.grad(function, tuple(range(len(arrays))))(*arrays)

    def forward(self, function: Callable[..., Any], arrays: Sequence[Any], tangents: Sequence[Any]) -> Any:
        return jax.jvp(function, tuple(arrays), tuple(tangents))[1]

    def inner(self, one: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.sum(one * other)

    def zero(self, array: jax.Array) -> jax.Array:
        return jnp.zeros_like(array)

    def mixed(self, composition: str, arrays: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
        if composition not in self._mixed:
            compute = partial(super().mixed, composition)
            self._mixed[composition] = compute if self.mode == "eager" else jax.jit(compute)
        return self._mixed[composition](arrays, directions)

    @cached_property
    def _mixed(self) -> dict[str, Callable[..., Sequence[Any]]]:
        """The compositions that were used, compiled once."""
        return {}

    def curvature(self, arrays: Mapping[str, np.ndarray], v: np.ndarray) -> float:
        with self.context():
            return float(self._curvature(*self.native(arrays), v=jnp.asarray(v)))

    @cached_property
    def _curvature(self) -> Callable[..., jax.Array]:
        def compute(*arrays: jax.Array, v: jax.Array) -> jax.Array:
            pulled = jax.grad(lambda *arrays: jnp.sum(v * jax.grad(self.weighted)(*arrays)))
            return jnp.sum(v * pulled(*arrays))

        return compute if self.mode == "eager" else jax.jit(compute)

    def weighted(self, *arrays: jax.Array) -> jax.Array:
        return jnp.sum(jnp.asarray(self.w, self.dtype) * self.f(*arrays))

    def first(self, *arrays: jax.Array) -> jax.Array:
        try:
            return self._all(*arrays)[1]
        except Exception:  # without second derivatives, if the program that has them fails
            return jax.grad(self.weighted)(*arrays)

    def second(self, *arrays: jax.Array) -> Sequence[jax.Array]:
        return self._all(*arrays)[2]

    def value(self, arrays: Mapping[str, np.ndarray]) -> float:
        try:
            with self.context():
                return float(self._all(*self.native(arrays))[0])
        except Exception:  # without derivatives, if the program that has them fails
            return super().value(arrays)

    @cached_property
    def _all(self) -> Callable[..., tuple[jax.Array, jax.Array, Sequence[jax.Array]]]:
        """<w, f>, its gradient, and the second derivatives."""

        def square(*arrays: jax.Array) -> jax.Array:
            return jnp.sum(jax.grad(self.weighted)(*arrays) ** 2)

        def compute(*arrays: jax.Array) -> tuple[jax.Array, jax.Array, Sequence[jax.Array]]:
            second = jax.grad(square, tuple(range(len(self.names))))
            return *jax.value_and_grad(self.weighted)(*arrays), second(*arrays)

        return compute if self.mode == "eager" else jax.jit(compute)


_ENDING = """\
gradient = jax.grad(lambda {{ arguments }}: jnp.sum(w * f({{ arguments }})))  # J^T w
{% if first and not numbers %}
print(gradient({{ arguments }}))
{% elif first %}
v = rng.normal(size=x.shape)
ends = [float(jnp.sum(w * f({{ moved }}))) for t in (1e-4, -1e-4)]
print("JAX: ", float(jnp.sum(v * gradient({{ arguments }}))), " differences:", (ends[0] - ends[1]) / 2e-4)
{% else %}
{% set second = "jax.grad(lambda %s: jnp.sum(gradient(%s) ** 2), %s)" % (arguments, arguments, index) %}
second = {{ "jax.jit(%s)" % second if mode == "jit" else second }}
{% if not numbers %}
print(second({{ arguments }}))
{% else %}
v = rng.normal(size={{ target }}.shape)
ends = [float(jnp.sum(gradient({{ moved }}) ** 2)) for t in ({{ step }}, -{{ step }})]
print("JAX: ", float(jnp.sum(v * second({{ arguments }}))), " differences:", (ends[0] - ends[1]) / {{ twice }})
{% endif %}
{% endif %}"""

_DERIVATIVES = """\
{% set label = "JAX" %}
{% macro constant(values) %}jnp.asarray({{ values }}){% endmacro %}
{% macro typed(values) %}jnp.asarray({{ values }}, dtype){% endmacro %}
{% macro total(array) %}jnp.sum({{ array }}){% endmacro %}
{% macro plain(number) %}float({{ number }}){% endmacro %}
{% macro compiled(function) %}{{ "jax.jit(%s)" % function if mode == "jit" else function }}{% endmacro %}
{% set forward %}
    return jax.jvp(function, (array,), (tangent,))[1]
{% endset %}
{% set reverse %}
    return jax.grad(function)(array)
{% endset %}
"""


def _enumerated() -> Iterator[Operation]:
    """The public functions of JAX's modules."""
    stats = {f"jax.scipy.stats.{name}": getattr(jax.scipy.stats, name, None) for name in _DISTRIBUTIONS}
    modules = _MODULES | {name: module for name, module in stats.items() if module is not None}
    patterns = Patterns("jnp.sin(h) + 2", "h @ h.T + 2 * jnp.eye({n})", "jnp.abs({value})")

    def evaluate(code: str, values: Mapping[str, Any]) -> Any:
        arrays = {name: jnp.asarray(value) if name == "h" else value for name, value in values.items()}
        return eval(code, {"jax": jax, "jnp": jnp, "np": np, **arrays})  # noqa: S307 - our own patterns

    # Without jit, JAX compiles single primitives, which many functions share.
    with enable_x64(), jax.disable_jit():
        yield from enumerate_functions(modules, patterns, evaluate, OPERATIONS, _EXCLUDED)


_SHAPE, _ZERO = "its shape depends on data", "its derivative is zero or missing"
_EXCLUDED = {
    **dict.fromkeys(("unique", "union1d", "setdiff1d", "setxor1d", "trim_zeros", "extract"), _SHAPE),
    **dict.fromkeys(("from_dlpack", "frombuffer", "save", "load"), "it has nothing to differentiate"),
    **dict.fromkeys(("floor_divide", "spacing", "nextafter", "frexp", "stop_gradient"), _ZERO),
    "DotDimensionNumbers": "it is not an operation",
}
_DISTRIBUTIONS = ("norm", "beta", "gamma", "logistic", "t", "cauchy", "laplace", "expon", "chi2", "pareto", "gumbel_r")
_MODULES = {
    "jax.nn": jax.nn,
    "jnp": jnp,
    "jnp.linalg": jnp.linalg,
    "jnp.fft": jnp.fft,
    "jax.lax": jax.lax,
    "jax.scipy.special": jax.scipy.special,
    "jax.scipy.linalg": jax.scipy.linalg,
    "jax.scipy.signal": jax.scipy.signal,
}

FRAMEWORK = Framework(
    name="jax",
    version=f"JAX {jax.__version__}",
    modes=("jit", "eager"),
    slow=("eager",),
    examples=4,
    syntax=Syntax(
        imports="import jax\nimport jax.numpy as jnp\nimport numpy as np",
        setting='jax.config.update("jax_enable_x64", {on})',
        array='jnp.asarray({values}, "{dtype}")',
        before="jnp.tanh(x @ A)",
        after="jnp.sin({code})",
        weight='jnp.asarray({values}, "{dtype}")',
    ),
    operations=OPERATIONS,
    problem=_JaxProblem,
    ending=_ENDING,
    derivatives=_DERIVATIVES,
    enumerated=_enumerated,
)
