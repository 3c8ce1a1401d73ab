"""TensorFlow under the sweep: nested tapes, and none of gradreg's replacements."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gradreg_sweep.framework import Framework
from gradreg_sweep.operation import Syntax
from gradreg_sweep.problem import Problem
from gradreg_sweep.tensorflow_ops import OPERATIONS

__all__ = ["FRAMEWORK"]


class _TensorFlowProblem(Problem):
    """The second derivatives are compiled unless the mode is "eager"."""

    def layer_variables(self, layer: Any) -> Sequence[Any]:
        return [variable.value for variable in layer.trainable_variables]

    def to_numpy(self, array: Any) -> np.ndarray:
        return np.asarray(tf.convert_to_tensor(array), np.float64)

    def native(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        for name, variable in self.variables.items():
            variable.assign(arrays[name])
        return [tf.constant(arrays[name], self.dtype) for name in self.names]

    def weighted(self, *arrays: Any) -> Any:
        return tf.reduce_sum(np.asarray(self.w) * self.f(*arrays))  # NumPy's w takes the dtype of what it multiplies

    def first(self, *arrays: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(arrays[0])
            z = self.weighted(*arrays)
        return tape.gradient(z, arrays[0])

    def second(self, *arrays: Any) -> Sequence[Any]:
        return self._compiled(*arrays)

    @cached_property
    def _compiled(self) -> Callable[..., Sequence[Any]]:
        def second(*arrays: Any) -> Sequence[Any]:
            with tf.GradientTape() as tape:
                tape.watch(arrays)
                q = tf.reduce_sum(tf.convert_to_tensor(self.first(*arrays)) ** 2)
            return tape.gradient(q, [*arrays, *self.variables.values()])

        return second if self.mode == "eager" else tf.function(second, autograph=False, jit_compile=self.mode == "xla")


_ENDING = """\

def gradient({{ arguments }}):  # J^T w
    with tf.GradientTape() as tape:
        tape.watch(x)
        z = tf.reduce_sum(w * f({{ arguments }}))
    return tape.gradient(z, x)


{% if first and not numbers %}
print(gradient({{ arguments }}))
{% elif first %}
v = rng.normal(size=x.shape)
ends = [float(tf.reduce_sum(w * f({{ moved }}))) for t in (1e-4, -1e-4)]
print("TensorFlow: ", float(tf.reduce_sum(v * gradient({{ arguments }}))))
print("differences:", (ends[0] - ends[1]) / 2e-4)
{% else %}
{% if mode != "eager" %}
@tf.function{{ "(jit_compile=True)" if mode == "xla" }}
{% endif %}
def second({{ arguments }}):  # the gradient of ||J^T w||^2
    with tf.GradientTape() as tape:
{% if not variable %}
        tape.watch({{ target }})
{% endif %}
        q = tf.reduce_sum(gradient({{ arguments }}) ** 2)
    return tape.gradient(q, {{ target }})


{% if not numbers %}
print(second({{ arguments }}))
{% else %}
v = rng.normal(size={{ target }}.shape)
found = float(tf.reduce_sum(v * second({{ arguments }})))
{% if variable %}


def q(t):
    {{ target }}.assign_add(t * v)
    value = float(tf.reduce_sum(gradient({{ arguments }}) ** 2))
    {{ target }}.assign_sub(t * v)
    return value


wanted = (q({{ step }}) - q(-{{ step }})) / {{ twice }}
{% else %}
ends = [float(tf.reduce_sum(gradient({{ moved }}) ** 2)) for t in ({{ step }}, -{{ step }})]
wanted = (ends[0] - ends[1]) / {{ twice }}
{% endif %}
print("TensorFlow: ", found, " differences:", wanted)
{% endif %}
{% endif %}"""

FRAMEWORK = Framework(
    name="tensorflow",
    version=f"TensorFlow {tf.__version__}, Keras {keras.__version__}",
    modes=("eager", "function", "xla"),
    slow=("function", "xla"),
    examples=8,
    syntax=Syntax(
        imports="import numpy as np\nimport tensorflow as tf",
        array='tf.constant({values}, "{dtype}")',
        before="tf.tanh(x @ A)",
        after="tf.sin({code})",
        weight="{values}",
        wide='tf.cast({name}, "float64")',
        seeded="tf.keras.utils.set_random_seed(0)",
        variable="layer.trainable_variables[{index}].value",
    ),
    operations=OPERATIONS,
    problem=_TensorFlowProblem,
    ending=_ENDING,
)
