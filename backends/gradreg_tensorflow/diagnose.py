"""The part of `check` that needs TensorFlow: which operation lacks a second derivative or has a wrong one."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gradreg_core.errors import DoubleBackwardError, InputError
from gradreg_core.preflight import AGREEMENT, compare, smooth_terms
from gradreg_tensorflow.model.replay import repeatable
from gradreg_tensorflow.model.variables import trainable_variables

__all__ = ["diagnose", "explain", "lacks_gradient"]

Findings = list[tuple[str, str, str]]
"""(level, problem, remedy)."""

_REMEDIES = (
    ("MaxPool", "Use tf.nn.max_pool or keras.layers.MaxPooling2D, which gradreg makes differentiable."),
    ("Resize", "Use tf.image.resize or keras.layers.UpSampling2D, which gradreg makes differentiable."),
    ("Cudnn", "Use keras.layers.LSTM(use_cudnn=False)."),
    ("CTCLoss", "Penalise the logits before the loss: SpectReg needs no labels."),
    ("LRN", "Write the normalisation with tf.nn.avg_pool and arithmetic, or use LayerNormalization."),
)
_GENERAL_REMEDY = (
    "Replace it by differentiable operations, or penalise an activation behind it: pass the head of the network."
)
_REMEDY_FOR_WRONG = (
    "Operations that gradreg replaces by right ones are listed in docs/tensorflow.md. It cannot replace them if they "
    "were traced before, in a SavedModel or a ConcreteFunction, or are called through tf.raw_ops."
)
_FAILURES = (LookupError, NotImplementedError, tf.errors.OpError)
_RELATIVE_STEPS = (1e-2, 3e-3, 1e-3)
"""Steps of the central differences, relative to the size of the variables."""
_TRIALS, _CANDIDATES = 2, 4
"""Directions that are compared, and random directions from which each is chosen."""
_NAMED = 3
"""Variables that a message names."""
_FLOOR = 1e-2
"""A derivative below this share of the penalty (steps are relative) counts as this share: roundoff hides it."""


def lacks_gradient(error: BaseException) -> bool:
    """Whether TensorFlow raised `error` because an operation has no gradient."""
    text = str(error)
    return "gradient registry has no entry" in text or "No gradient defined for" in text or "tried to transpose" in text


def explain(error: BaseException) -> DoubleBackwardError:
    """TensorFlow's error as gradreg's, with a remedy."""
    problem, remedy = _explanation(error)
    return DoubleBackwardError(f"{problem} {remedy} check(model, x, y, reg) looks at all of a model.")


def _explanation(error: BaseException) -> tuple[str, str]:
    """(problem, remedy)."""
    text = str(error).strip().splitlines()[0][:200]
    if "recompute_grad" in text:
        return "tf.recompute_grad has no second derivative in TensorFlow.", "Call the function without it."
    operation = re.search(r"(?:entry for|operation '[^']*' \(op type): *(\w+)", text)
    name = operation.group(1) if operation else text
    derivative = "second derivative" if re.search("Grad|Backprop", name) else "derivative"
    remedy = next((remedy for mark, remedy in _REMEDIES if mark in name), _GENERAL_REMEDY)
    return f"an operation of the model has no {derivative} in TensorFlow ({name}).", remedy


def diagnose(calls: Any, model: Any, x: tf.Tensor, y: Any, reg: Any, options: Any) -> tuple[Findings, bool]:
    """Differentiate the penalty with respect to the variables, and compare with finite differences over them.

    Returns:
        The findings, and whether the penalty does not depend on x or has no derivative, so that finite differences over
        x make no sense.

    Raises:
        InputError: a tf.function is being traced.
    """
    if not tf.executing_eagerly():
        raise InputError("check: it reads values, so call it in eager mode, outside tf.function.")
    x = tf.convert_to_tensor(x)

    def penalty(reg: Any) -> tf.Tensor:
        return calls.penalty(model, x, y, reg, batch_norm="allow", **options)

    try:
        with repeatable(model), tf.GradientTape() as tape:
            tape.watch(x)
            value = penalty(reg)
        variables = [*tape.watched_variables(), *trainable_variables(model)]
        variables = list({id(variable): variable for variable in variables}.values())
        *gradients, of_x = tape.gradient(value, [*variables, x])
    except _FAILURES as error:
        if not isinstance(error, DoubleBackwardError) and not lacks_gradient(error):
            raise
        return [("error", *_explanation(error))], True
    unconnected = of_x is None
    reached = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    if variables and not reached and float(value) != 0:
        problem = "the penalty's gradient is None for every variable: training would not change the penalty."
        return [("error", problem, "Look for tf.stop_gradient, NumPy or tf.numpy_function in the model.")], unconnected
    if any(not bool(tf.reduce_all(tf.math.is_finite(gradient))) for gradient in reached):
        problem = "the penalty's gradient is NaN or infinite."
        return [("error", problem, "Look for sqrt, norm or log at 0.")], unconnected
    smooth = smooth_terms(reg)
    if not variables or smooth is None:
        return [], unconnected

    def smooth_penalty() -> tf.Tensor:
        with calls.backend.smoothed(model, x), repeatable(model):
            return penalty(smooth)

    return _Differences(smooth_penalty, variables).findings(), unconnected


class _Differences:
    """The penalty's gradient with respect to the variables, beside finite differences."""

    def __init__(self, penalty: Callable[[], tf.Tensor], variables: Sequence[tf.Variable]) -> None:
        self.penalty, self.variables = penalty, variables
        with tf.GradientTape() as tape:
            value = penalty()
        self.gradients = tape.gradient(value, variables)
        self.floor = _FLOOR * abs(float(value))
        self.generator = np.random.default_rng(0)

    def findings(self) -> Findings:
        """The variables whose gradient is wrong, or is None although the penalty depends on them."""
        indices = range(len(self.variables))
        given = [index for index in indices if self.gradients[index] is not None]
        missing = [index for index in indices if self.gradients[index] is None]
        findings: Findings = []
        worst = max(self._disagreement(given) for _ in range(_TRIALS)) if given else 0.0
        if not worst <= AGREEMENT:
            problem = (
                f"the penalty's gradient with respect to the variables differs from finite differences by {worst:.1%}, "
                f"most for {self._names(given)}: some operation has a wrong second derivative in TensorFlow."
            )
            findings.append(("error", problem, _REMEDY_FOR_WRONG))
        if missing and not self._disagreement(missing) <= AGREEMENT:
            problem = (
                f"the penalty depends on {self._names(missing)}, but its gradient there is None: some operation has no "
                f"second derivative in TensorFlow, which drops it silently."
            )
            findings.append(("error", problem, _REMEDY_FOR_WRONG))
        return findings

    def _names(self, indices: Sequence[int]) -> str:
        """The names of the first few variables whose own gradient disagrees."""
        names = [self.variables[index].name for index in indices if not self._disagreement([index]) <= AGREEMENT]
        return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")

    def _disagreement(self, indices: Sequence[int]) -> float:
        """Relative difference between the derivative along a direction of some variables and finite differences."""
        variables = [self.variables[index] for index in indices]
        starts = [variable.numpy().astype(np.float64) for variable in variables]
        slope, directions = self._steep(starts, [self.gradients[index] for index in indices])

        def move(step: float) -> None:
            for variable, start, direction in zip(variables, starts, directions, strict=True):
                variable.assign(start + step * direction)

        def penalty_at(step: float) -> float:
            move(step)
            return float(self.penalty())

        try:
            differences = [(penalty_at(step) - penalty_at(-step)) / (2 * step) for step in _RELATIVE_STEPS]
        finally:
            move(0.0)
        nearest, settled = compare(slope, differences, _RELATIVE_STEPS, self.floor)
        return nearest if settled or nearest <= AGREEMENT else 0.0  # over unknown kinks the differences say nothing

    def _steep(self, starts: Sequence[np.ndarray], gradients: Sequence[Any]) -> tuple[float, list[np.ndarray]]:
        """The steepest of a few random directions, relative to the variables' own size, and the slope along it.

        Along a random direction an error shows in its full proportion; a flat one would drown in roundoff.
        """
        lengths = [math.sqrt(np.mean(start**2)) or 0.1 for start in starts]
        claimed = [0.0 if gradient is None else tf.convert_to_tensor(gradient).numpy() for gradient in gradients]
        best: tuple[float, list[np.ndarray]] = (0.0, [])
        for _ in range(_CANDIDATES):
            directions = [
                length * self.generator.standard_normal(start.shape)
                for start, length in zip(starts, lengths, strict=True)
            ]
            slope = sum(float(np.sum(array * along)) for array, along in zip(claimed, directions, strict=True))
            if not best[1] or abs(slope) > abs(best[0]):
                best = slope, directions
        return best
