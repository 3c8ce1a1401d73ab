"""JAX under the sweep: `jax.grad` of `jax.grad`."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gradreg_sweep.jax_ops import OPERATIONS
from gradreg_sweep.operation import Operation, Program, Syntax
from gradreg_sweep.verdict import Verdict

__all__ = ["FRAMEWORK", "Jax"]


class Jax:
    """See :class:`gradreg_sweep.search.Framework`."""

    name = "jax"
    title = "JAX"
    modes = ("jit", "eager")
    examples = 4
    slow = ("eager",)
    syntax = Syntax(
        imports="import jax\nimport jax.numpy as jnp\nimport numpy as np",
        setting='jax.config.update("jax_enable_x64", True)',
        array='jnp.asarray({values}, "{dtype}")',
        before="jnp.tanh(x @ A)",
        after="jnp.sin({code})",
        weight="{values}",
    )
    operations: tuple[Operation, ...] = OPERATIONS

    def version(self) -> str:
        """JAX's."""
        return f"JAX {jax.__version__}"

    def problem(self, program: Program, mode: str, dtype: str) -> "JaxProblem":
        """The program, its second derivatives compiled in mode "jit"."""
        return JaxProblem(program, mode, dtype)

    def ending(self, program: Program, mode: str, verdict: Verdict) -> str:
        """`jax.grad` of `jax.grad`, and a central difference."""
        arguments = ", ".join(program.names)
        target, index = verdict.array, program.names.index(verdict.array)
        lines = [
            f"gradient = jax.grad(lambda {arguments}: jnp.sum(w * f({arguments})))  # J^T w",
        ]
        wrap = "jax.jit({})" if mode == "jit" else "{}"
        if verdict.kind == "first derivative":
            if verdict.detail and verdict.detail != "NaN":
                return "\n".join([*lines, f"print(gradient({arguments}))"])
            at = ", ".join(name + (" + t * v" if name == "x" else "") for name in program.names)
            lines += [
                "v = rng.normal(size=x.shape)",
                f"ends = [float(jnp.sum(w * f({at}))) for t in (1e-4, -1e-4)]",
                f'print("JAX: ", float(jnp.sum(v * gradient({arguments}))), '
                '" differences:", (ends[0] - ends[1]) / 2e-4)',
            ]
            return "\n".join(lines)
        second = wrap.format(f"jax.grad(lambda {arguments}: jnp.sum(gradient({arguments}) ** 2), {index})")
        lines.append(f"second = {second}")
        if verdict.kind in ("raises", "None", "NaN"):
            return "\n".join([*lines, f"print(second({arguments}))"])
        step = "1e-2" if verdict.single else "1e-4"
        wide = program.configuration["dtype"] == "float32"
        at = ", ".join(
            (f'{name}.astype("float64")' if wide else name) + (" + t * v" if name == target else "")
            for name in program.names
        )
        lines += [
            f"v = rng.normal(size={target}.shape)",
            f"ends = [float(jnp.sum(gradient({at}) ** 2)) for t in ({step}, -{step})]",
            f'print("JAX: ", float(jnp.sum(v * second({arguments}))), '
            f'" differences:", (ends[0] - ends[1]) / {2 * float(step):g})',
        ]
        return "\n".join(lines)


class JaxProblem:
    """See :class:`gradreg_sweep.verdict.Problem`. Float64 is switched on for its own calls alone."""

    def __init__(self, program: Program, mode: str, dtype: str) -> None:
        self.names, self.mode, self.dtype = program.names, mode, dtype
        with jax.enable_x64(True):
            namespace = program.run(dtype)
            self.f, self.w = namespace["f"], jnp.asarray(namespace["w"], dtype)
            self.arrays = {name: np.asarray(namespace[name], np.float64) for name in self.names}

    def _arrays(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        return [jnp.asarray(arrays[name], self.dtype) for name in self.names]

    def _value(self, *arrays: Any) -> Any:
        return jnp.sum(self.w * self.f(*arrays))

    def _square(self, *arrays: Any) -> Any:
        return jnp.sum(jax.grad(self._value)(*arrays) ** 2)

    def _all(self, *arrays: Any) -> Any:
        second = jax.grad(self._square, tuple(range(len(self.names))))
        return *jax.value_and_grad(self._value)(*arrays), second(*arrays)

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        # One program for all that is asked, because compiling takes longer than anything else.
        return self._all if self.mode == "eager" else jax.jit(self._all)

    def _found(self, arrays: Mapping[str, np.ndarray]) -> Any:
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, self._compiled(*self._arrays(arrays)))

    def value(self, arrays: Mapping[str, np.ndarray]) -> float:
        """<w, f>; without its derivatives, where the program that has them fails."""
        try:
            return float(self._found(arrays)[0])
        except Exception:
            with jax.enable_x64(True):
                return float(self._value(*self._arrays(arrays)))

    def gradient(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """J^T w; without second derivatives, where the program that has them fails."""
        try:
            return np.asarray(self._found(arrays)[1], np.float64)
        except Exception:
            with jax.enable_x64(True):
                return np.asarray(jax.grad(self._value)(*self._arrays(arrays)), np.float64)

    def penalty_gradients(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
        """In the problem's mode."""
        return {
            name: np.asarray(each, np.float64) for name, each in zip(self.names, self._found(arrays)[2], strict=True)
        }


FRAMEWORK = Jax()
