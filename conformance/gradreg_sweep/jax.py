"""JAX under the sweep: `jax.grad` of `jax.grad`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradreg_jax.versions import enable_x64
from gradreg_sweep.framework import Framework
from gradreg_sweep.jax_ops import OPERATIONS
from gradreg_sweep.operation import Syntax
from gradreg_sweep.problem import Problem

__all__ = ["FRAMEWORK"]


class _JaxProblem(Problem):
    """All derivatives come from one program, because compiling takes longer than anything else.

    Float64 is switched on for the problem's own calls alone.
    """

    def context(self) -> AbstractContextManager[Any]:
        return enable_x64()

    def native(self, arrays: Mapping[str, np.ndarray]) -> list[jax.Array]:
        return [jnp.asarray(arrays[name], self.dtype) for name in self.names]

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

FRAMEWORK = Framework(
    name="jax",
    version=f"JAX {jax.__version__}",
    modes=("jit", "eager"),
    slow=("eager",),
    examples=4,
    syntax=Syntax(
        imports="import jax\nimport jax.numpy as jnp\nimport numpy as np",
        setting='jax.config.update("jax_enable_x64", True)',
        array='jnp.asarray({values}, "{dtype}")',
        before="jnp.tanh(x @ A)",
        after="jnp.sin({code})",
        weight="{values}",
        wide='{name}.astype("float64")',
    ),
    operations=OPERATIONS,
    problem=_JaxProblem,
    ending=_ENDING,
)
