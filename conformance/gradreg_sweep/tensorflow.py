"""TensorFlow under the sweep: nested tapes, without gradreg's replacements."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from operator import attrgetter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from gradreg_sweep.enumeration import Patterns, enumerate_functions
from gradreg_sweep.framework import Framework
from gradreg_sweep.operation import Operation, Syntax
from gradreg_sweep.problem import Problem
from gradreg_sweep.tensorflow_library import LIBRARY
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

    def constants(self, arrays: Mapping[str, np.ndarray]) -> list[Any]:
        return [tf.constant(arrays[name], self.dtype) for name in self.names]

    def reverse(self, function: Callable[..., Any], arrays: Sequence[Any]) -> Sequence[Any]:
        with tf.GradientTape() as tape:
            tape.watch(arrays)
            value = function(*arrays)
        gradients: Sequence[Any] = tape.gradient(value, list(arrays))
        return gradients

    def forward(self, function: Callable[..., Any], arrays: Sequence[Any], tangents: Sequence[Any]) -> Any:
        with tf.autodiff.ForwardAccumulator(list(arrays), list(tangents)) as accumulator:
            value = function(*arrays)
        return accumulator.jvp(value, unconnected_gradients="zero")

    def inner(self, one: Any, other: Any) -> Any:
        return tf.reduce_sum(tf.convert_to_tensor(one) * other)

    def zero(self, array: Any) -> Any:
        return tf.zeros_like(array)

    def mixed(self, composition: str, arrays: Sequence[Any], directions: Sequence[Any]) -> Sequence[Any]:
        compute = partial(super().mixed, composition)
        if self.mode != "eager":
            compute = tf.function(compute, autograph=False, jit_compile=self.mode == "xla")
        numbers: Sequence[Any] = compute(arrays, directions)
        return numbers

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

_DERIVATIVES = """\
{% set label = "TensorFlow" %}
{% macro constant(values) %}tf.constant({{ values }}){% endmacro %}
{% macro typed(values) %}tf.constant({{ values }}, dtype){% endmacro %}
{% macro total(array) %}tf.reduce_sum({{ array }}){% endmacro %}
{% macro plain(number) %}float({{ number }}){% endmacro %}
{% macro compiled(function) %}
{{- function if mode == "eager" else "tf.function(%s%s)" % (function, ", jit_compile=True" if mode == "xla" else "") }}
{%- endmacro %}
{% set forward %}
    with tf.autodiff.ForwardAccumulator(array, tangent) as accumulator:
        value = function(array)
    return accumulator.jvp(value, unconnected_gradients="zero")
{% endset %}
{% set reverse %}
    with tf.GradientTape() as tape:
        tape.watch(array)
        value = function(array)
    return tape.gradient(value, array)
{% endset %}
"""


def _enumerated() -> Iterator[Operation]:
    """The public functions of the modules of TensorFlow and Keras."""
    modules = {f"tf.{name}": attrgetter(name)(tf) for name in _MODULES} | {"tf": tf}
    patterns = Patterns("tf.sin(h) + 2", "h @ tf.transpose(h) + 2 * tf.eye({n}, dtype=h.dtype)", "tf.abs({value})")

    def evaluate(code: str, values: Mapping[str, Any]) -> Any:
        arrays = {name: tf.constant(value) if name == "h" else value for name, value in values.items()}
        return eval(code, {"tf": tf, "np": np, **arrays})  # noqa: S307 - our own patterns

    return enumerate_functions(modules, patterns, evaluate, FRAMEWORK.operations, _EXCLUDED)


_EXCLUDED = {
    **dict.fromkeys(("random", "stateless", "dropout", "timestamp"), "it is random"),
    **dict.fromkeys(("unique", "collapse_repeated"), "its shape depends on data"),
    **dict.fromkeys(("floor", "nextafter", "stop_gradient", "bitcast", "view"), "its derivative is zero or missing"),
    **dict.fromkeys(("get_static_value", "convert_to_numpy", "print", "debugging"), "it is not an operation"),
}
_MODULES = (
    "nn", "math", "linalg", "signal", "keras.ops", "keras.activations", "keras.losses", "math.special", "image",
)  # fmt: skip

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
        same="weights = layer.get_weights() if dtype == {first} else weights\nlayer.set_weights(weights)",
        seeded="tf.keras.utils.set_random_seed(0)",
        variable="layer.trainable_variables[{index}].value",
    ),
    operations=(*OPERATIONS, *LIBRARY),
    problem=_TensorFlowProblem,
    ending=_ENDING,
    derivatives=_DERIVATIVES,
    enumerated=_enumerated,
)
