"""TensorFlow under the sweep: nested tapes, and none of gradreg's replacements."""

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gradreg_sweep.operation import Operation, Program, Syntax
from gradreg_sweep.tensorflow_ops import OPERATIONS
from gradreg_sweep.verdict import Verdict

__all__ = ["FRAMEWORK", "TensorFlow"]


class TensorFlow:
    """See :class:`gradreg_sweep.search.Framework`."""

    name = "tensorflow"
    title = "TensorFlow"
    modes = ("eager", "function", "xla")
    examples = 8
    slow = ("function", "xla")
    syntax = Syntax(
        imports="import numpy as np\nimport tensorflow as tf",
        array='tf.constant({values}, "{dtype}")',
        before="tf.tanh(x @ A)",
        after="tf.sin({code})",
        weight="{values}",
        seeded="tf.keras.utils.set_random_seed(0)",
    )
    operations: tuple[Operation, ...] = OPERATIONS

    def version(self) -> str:
        """Both versions."""
        return f"TensorFlow {tf.__version__}, Keras {keras.__version__}"

    def problem(self, program: Program, mode: str, dtype: str) -> "TensorFlowProblem":
        """The program, compiled unless the mode is "eager"."""
        return TensorFlowProblem(program, mode, dtype)

    def ending(self, program: Program, mode: str, verdict: Verdict) -> str:
        """Two tapes, one inside the other, and a central difference."""
        arguments = ", ".join(program.names)
        target = verdict.array
        lines = [
            "",
            f"def gradient({arguments}):  # J^T w",
            "    with tf.GradientTape() as tape:",
            "        tape.watch(x)",
            f"        z = tf.reduce_sum(w * f({arguments}))",
            "    return tape.gradient(z, x)",
            "",
        ]
        variable = target.startswith("layer.")
        seen = f"layer.trainable_variables[{target.partition('.')[2]}].value" if variable else target
        if verdict.kind == "first derivative":
            if verdict.detail and verdict.detail != "NaN":
                return "\n".join([*lines, "", f"print(gradient({arguments}))"])
            lines += [
                "",
                "v = rng.normal(size=x.shape)",
                f"ends = [float(tf.reduce_sum(w * f({_moved(program, 't')}))) for t in (1e-4, -1e-4)]",
                f'print("TensorFlow: ", float(tf.reduce_sum(v * gradient({arguments}))))',
                'print("differences:", (ends[0] - ends[1]) / 2e-4)',
            ]
            return "\n".join(lines)
        decorator = {"eager": [], "function": ["@tf.function"], "xla": ["@tf.function(jit_compile=True)"]}[mode]
        lines += [
            "",
            *decorator,
            f"def second({arguments}):  # the gradient of ||J^T w||^2",
            "    with tf.GradientTape() as tape:",
            *([] if variable else [f"        tape.watch({seen})"]),
            f"        q = tf.reduce_sum(gradient({arguments}) ** 2)",
            f"    return tape.gradient(q, {seen})",
            "",
            "",
        ]
        if verdict.kind in ("raises", "None", "NaN"):
            return "\n".join([*lines, f"print(second({arguments}))"])
        step = "1e-2" if verdict.single else "1e-4"
        lines += [f"v = rng.normal(size={seen}.shape)", f"found = float(tf.reduce_sum(v * second({arguments})))"]
        if variable:
            lines += [
                "",
                "",
                "def q(t):",
                f"    {seen}.assign_add(t * v)",
                f"    value = float(tf.reduce_sum(gradient({arguments}) ** 2))",
                f"    {seen}.assign_sub(t * v)",
                "    return value",
                "",
                "",
                f"wanted = (q({step}) - q(-{step})) / {2 * float(step):g}",
            ]
        else:
            wide = program.configuration["dtype"] == "float32"
            at = ", ".join(
                (f'tf.cast({name}, "float64")' if wide else name) + (" + t * v" if name == target else "")
                for name in program.names
            )
            lines += [
                f"ends = [float(tf.reduce_sum(gradient({at}) ** 2)) for t in ({step}, -{step})]",
                f"wanted = (ends[0] - ends[1]) / {2 * float(step):g}",
            ]
        lines.append('print("TensorFlow: ", found, " differences:", wanted)')
        return "\n".join(lines)


def _moved(program: Program, step: str) -> str:
    return ", ".join(f"x + {step} * v" if name == "x" else name for name in program.names)


class TensorFlowProblem:
    """See :class:`gradreg_sweep.verdict.Problem`."""

    def __init__(self, program: Program, mode: str, dtype: str) -> None:
        self.names, self.mode, self.dtype = program.names, mode, dtype
        namespace = program.run(dtype)
        self.f: Callable[..., Any] = namespace["f"]
        self.w = np.asarray(namespace["w"])  # TensorFlow makes it of the dtype of what it multiplies
        layer = namespace.get("layer")
        trainable = [] if layer is None else layer.trainable_variables
        self.variables = {f"layer.{index}": each.value for index, each in enumerate(trainable)}
        self.arrays = {name: np.asarray(namespace[name], np.float64) for name in self.names}
        self.arrays |= {name: np.asarray(each, np.float64) for name, each in self.variables.items()}

    def _tensors(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        for name, variable in self.variables.items():
            variable.assign(arrays[name])
        return [tf.constant(arrays[name], self.dtype) for name in self.names]

    def _value(self, *tensors: Any) -> Any:
        return tf.reduce_sum(self.w * self.f(*tensors))

    def _gradient(self, *tensors: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors[0])
            z = self._value(*tensors)
        return tape.gradient(z, tensors[0])

    def _second(self, *tensors: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            q = tf.reduce_sum(tf.convert_to_tensor(self._gradient(*tensors)) ** 2)
        return tape.gradient(q, [*tensors, *self.variables.values()])

    @cached_property
    def _compiled(self) -> Callable[..., Any]:
        if self.mode == "eager":
            return self._second
        compiled: Callable[..., Any] = tf.function(self._second, autograph=False, jit_compile=self.mode == "xla")
        return compiled

    def value(self, arrays: Mapping[str, np.ndarray]) -> float:
        """In eager mode."""
        return float(self._value(*self._tensors(arrays)))

    def gradient(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """In eager mode."""
        found = self._gradient(*self._tensors(arrays))
        return None if found is None else np.asarray(tf.convert_to_tensor(found), np.float64)

    def penalty_gradients(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray | None]:
        """In the problem's mode."""
        found = self._compiled(*self._tensors(arrays))
        return {
            name: None if each is None else np.asarray(tf.convert_to_tensor(each), np.float64)
            for name, each in zip([*self.names, *self.variables], found, strict=True)
        }


FRAMEWORK = TensorFlow()
