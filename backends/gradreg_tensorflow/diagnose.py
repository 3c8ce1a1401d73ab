"""What only TensorFlow can tell before training: which operation lacks a second derivative or has a wrong one."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from gradreg_core.errors import DoubleBackwardError

__all__ = ["diagnose", "explain", "lacks_gradient"]

Rows = list[tuple[str, str, str]]

_REMEDIES = (
    ("MaxPool", "Use tf.nn.max_pool or keras.layers.MaxPooling2D, which gradreg makes differentiable."),
    ("Resize", "Use tf.image.resize or keras.layers.UpSampling2D, which gradreg makes differentiable."),
    ("Cudnn", "Use keras.layers.LSTM(use_cudnn=False)."),
    ("CTCLoss", "Penalise the logits before the loss: SpectReg needs no labels."),
    ("LRN", "Write the normalisation with tf.nn.avg_pool and arithmetic, or use LayerNormalization."),
)
_OTHERWISE = "Replace it by differentiable operations, or penalise an activation behind it: pass the head of the network."
_STEPS = (1e-2, 3e-3, 1e-3, 3e-4)
"""Relative steps of the central differences over the parameters."""
_AGREEMENT = 5e-3
"""As in gradreg_core.check: right gradients agree to about 1e-3 in float32, wrong ones are off by 1e-2 and more."""


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
