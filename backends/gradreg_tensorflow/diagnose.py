"""What only TensorFlow can tell before training: which operation lacks a second derivative or has a wrong one."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from gradreg_core.errors import DoubleBackwardError, InputError
from gradreg_core.preflight import _smooth, compare
from gradreg_tensorflow.model.replay import repeatable
from gradreg_tensorflow.model.variables import trainable_variables

__all__ = ["diagnose", "explain", "lacks_gradient"]

Rows = list[tuple[str, str, str]]

_REMEDIES = (
    ("MaxPool", "Use tf.nn.max_pool or keras.layers.MaxPooling2D, which gradreg makes differentiable."),
    ("Resize", "Use tf.image.resize or keras.layers.UpSampling2D, which gradreg makes differentiable."),
    ("Cudnn", "Use keras.layers.LSTM(use_cudnn=False)."),
    ("CTCLoss", "Penalise the logits before the loss: SpectReg needs no labels."),
    ("LRN", "Write the normalisation with tf.nn.avg_pool and arithmetic, or use LayerNormalization."),
)
_OTHERWISE = (
    "Replace it by differentiable operations, or penalise an activation behind it: pass the head of the network."
)
_FAILURES = (LookupError, NotImplementedError, tf.errors.OpError)
_STEPS = (1e-2, 3e-3, 1e-3)
"""Relative steps of the central differences over the parameters."""
_DIRECTIONS, _CANDIDATES = 2, 4
_NAMED = 3
_FLOOR = 1e-2
"""A derivative below this share of the penalty (steps are relative) counts as this share: roundoff hides it."""
_WRONG = (
    "Operations that gradreg can mend are listed in docs/tensorflow.md; it cannot where they were traced before, in a "
    "SavedModel or a ConcreteFunction, or are called through tf.raw_ops."
)
_AGREEMENT = 5e-3
"""As in gradreg_core.preflight: right gradients agree to about 1e-3 in float32, wrong ones are off by 1e-2 and more."""


def lacks_gradient(error: BaseException) -> bool:
    """Whether TensorFlow raised `error` because an operation has no gradient."""
    text = str(error)
    return "gradient registry has no entry" in text or "No gradient defined for" in text or "tried to transpose" in text


def explain(error: BaseException) -> DoubleBackwardError:
    """TensorFlow's complaint as gradreg's, with a remedy."""
    problem, remedy = _explained(error)
    return DoubleBackwardError(f"{problem} {remedy} check(model, x, y, reg) looks at all of a model.")


def _explained(error: BaseException) -> tuple[str, str]:
    text = str(error).strip().splitlines()[0][:200]
    if "recompute_grad" in text:
        return "tf.recompute_grad has no second derivative in TensorFlow.", "Call the function without it."
    operation = re.search(r"(?:entry for|operation '[^']*' \(op type): *(\w+)", text)
    name = operation.group(1) if operation else text
    derivative = "second derivative" if re.search("Grad|Backprop", name) else "derivative"
    remedy = next((remedy for mark, remedy in _REMEDIES if mark in name), _OTHERWISE)
    return f"an operation of the model has no {derivative} in TensorFlow ({name}).", remedy


def diagnose(calls: Any, model: Any, x: tf.Tensor, y: Any, reg: Any, options: Any) -> tuple[Rows, bool]:
    """Differentiate the penalty with respect to the variables, and compare with finite differences over them.

    Returns:
        (level, problem, remedy) for each finding, and whether finite differences over x make no sense.

    Raises:
        InputError: a tf.function is being traced.
    """
    if not tf.executing_eagerly():
        raise InputError("check: it reads values, so call it in eager mode, outside tf.function.")
    x = tf.convert_to_tensor(x)

    def penalty(reg: Any) -> tf.Tensor:
        return calls.penalty(model, x, y, reg, batch_norm="allow", **options)

    def smooth_penalty() -> tf.Tensor:
        with calls.backend.smoothed(model, x), repeatable(model):
            return penalty(smooth)

    try:
        with repeatable(model), tf.GradientTape() as tape:
            tape.watch(x)
            value = penalty(reg)
        variables = [*tape.watched_variables(), *trainable_variables(model)]
        variables = list({id(each): each for each in variables}.values())
        *gradients, of_x = tape.gradient(value, [*variables, x])
    except _FAILURES as error:
        if not isinstance(error, DoubleBackwardError) and not lacks_gradient(error):
            raise
        return [("error", *_explained(error))], True
    unconnected = of_x is None
    found: Rows = []
    reached = [tf.convert_to_tensor(each) for each in gradients if each is not None]
    if variables and not reached and float(value) != 0:
        problem = "the penalty's gradient is None for every variable: training would not change the penalty."
        found.append(("error", problem, "Look for tf.stop_gradient, NumPy or tf.numpy_function in the model."))
    elif any(not bool(tf.reduce_all(tf.math.is_finite(each))) for each in reached):
        found.append(("error", "the penalty's gradient is NaN or infinite.", "Look for sqrt, norm or log at 0."))
    smooth = _smooth(reg)
    if not found and variables and smooth is not None:
        found += _against_differences(smooth_penalty, variables)
    return found, unconnected


def _against_differences(penalty: Callable[[], tf.Tensor], variables: Sequence[tf.Variable]) -> Rows:
    """Findings where the penalty's gradient disagrees with finite differences over the variables."""
    with tf.GradientTape() as tape:
        value = penalty()
    slopes = dict(enumerate(tape.gradient(value, variables)))
    given = [index for index, slope in slopes.items() if slope is not None]
    missing = [index for index, slope in slopes.items() if slope is None]
    generator = np.random.default_rng(0)

    def disagreement(chosen: Sequence[int]) -> float:
        """Relative difference of the derivative along a direction of the chosen variables."""
        starts = [variables[index].numpy().astype(np.float64) for index in chosen]
        claimed = [
            np.zeros(start.shape) if slopes[index] is None else tf.convert_to_tensor(slopes[index]).numpy()
            for index, start in zip(chosen, starts, strict=True)
        ]
        slope, directions = _steep(starts, claimed, generator)

        def move(step: float) -> None:
            for index, start, direction in zip(chosen, starts, directions, strict=True):
                variables[index].assign(start + step * direction)

        def at(step: float) -> float:
            move(step)
            return float(penalty())

        try:
            differences = [(at(step) - at(-step)) / (2 * step) for step in _STEPS]
        finally:
            move(0.0)
        nearest, settled = compare(slope, differences, _STEPS, _FLOOR * abs(float(value)))
        return nearest if settled or nearest <= _AGREEMENT else 0.0  # over unknown kinks they say nothing

    found: Rows = []
    worst = max((disagreement(given) for _ in range(_DIRECTIONS)), default=0.0) if given else 0.0
    if not worst <= _AGREEMENT:
        named = [index for index in given if not disagreement([index]) <= _AGREEMENT]
        problem = (
            f"the penalty's gradient with respect to the variables differs from finite differences by {worst:.1%}, "
            f"most for {_names(variables, named)}: some operation has a wrong second derivative in TensorFlow."
        )
        found.append(("error", problem, _WRONG))
    if missing and not disagreement(missing) <= _AGREEMENT:
        named = [index for index in missing if not disagreement([index]) <= _AGREEMENT]
        problem = (
            f"the penalty depends on {_names(variables, named)}, but its gradient there is None: some operation has no "
            f"second derivative in TensorFlow, which drops it silently."
        )
        found.append(("error", problem, _WRONG))
    return found


def _steep(
    starts: Sequence[np.ndarray], claimed: Sequence[np.ndarray], generator: np.random.Generator
) -> tuple[float, list[np.ndarray]]:
    """The steepest of a few random directions, relative to the variables' own size, and the slope claimed for it.

    Along a random direction an error shows in its full proportion; a flat one would drown in roundoff.
    """
    lengths = [math.sqrt(np.mean(start**2)) or 0.1 for start in starts]
    best: tuple[float, list[np.ndarray]] = (0.0, [])
    for _ in range(_CANDIDATES):
        directions = [
            length * generator.standard_normal(each.shape) for each, length in zip(starts, lengths, strict=True)
        ]
        slope = sum(float(np.sum(each * along)) for each, along in zip(claimed, directions, strict=True))
        if not best[1] or abs(slope) > abs(best[0]):
            best = (slope, directions)
    return best


def _names(variables: Sequence[tf.Variable], chosen: Sequence[int]) -> str:
    """The names of the first few."""
    names = [variables[index].name for index in chosen]
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
