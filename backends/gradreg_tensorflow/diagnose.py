"""The part of `check` that needs TensorFlow: it names operations whose second derivative is missing or wrong."""

import re
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from gradreg_core.errors import DoubleBackwardError
from gradreg_core.preflight.references import references
from gradreg_tensorflow.model.variables import trainable_variables

__all__ = ["blame", "definitions", "explain", "how_it_runs", "lacks_gradient", "require_safe_trace"]

_REMEDIES = (
    ("MaxPool", "Use tf.nn.max_pool or keras.layers.MaxPooling2D, which gradreg makes differentiable."),
    ("Resize", "Use tf.image.resize or keras.layers.UpSampling2D, which gradreg makes differentiable."),
    ("Cudnn", "Use keras.layers.LSTM(use_cudnn=False)."),
    ("CTCLoss", "Penalise the logits before the loss: SpectReg needs no labels."),
    ("LRN", "Write the normalisation with tf.nn.avg_pool and arithmetic, or use LayerNormalization."),
)
_PYTHON = "EagerPyFunc"
_BILINEAR = "bilinear resizing"
_GENERAL_REMEDY = (
    "Replace it with differentiable operations, or penalise an activation after it: pass the head of the network."
)


def lacks_gradient(error: BaseException) -> bool:
    """Whether TensorFlow raised `error` because an operation has no gradient."""
    text = str(error)
    marks = ("gradient registry has no entry", "No gradient defined for", "tried to transpose", _PYTHON)
    return any(mark in text for mark in marks)


def explain(error: BaseException) -> DoubleBackwardError:
    """TensorFlow's error as gradreg's, with a remedy."""
    problem, remedy = _explanation(error)
    return DoubleBackwardError(f"{problem} {remedy} check(model, x, y, reg) checks the whole model.")


def _explanation(error: BaseException) -> tuple[str, str]:
    """(problem, remedy)."""
    text = str(error).strip().splitlines()[0][:200]
    if _PYTHON in text:
        return (
            "tf.py_function has no second derivative in TensorFlow.",
            "Write the function with TensorFlow operations, or define its derivatives with tf.custom_gradient.",
        )
    if "recompute_grad" in text:
        return "tf.recompute_grad has no second derivative in TensorFlow.", "Call the function without it."
    operation = re.search(r"(?:entry for|operation '[^']*' \(op type): *(\w+)", text)
    name = operation.group(1) if operation else text
    derivative = "second derivative" if re.search("Grad|Backprop", name) else "derivative"
    remedy = next((remedy for mark, remedy in _REMEDIES if mark in name), _GENERAL_REMEDY)
    return f"an operation of the model has no {derivative} in TensorFlow ({name}).", remedy


def require_safe_trace(function: Any) -> None:
    """Refuse a function traced outside gradreg with an operation whose second derivative is silently wrong.

    Args:
        function: a ConcreteFunction: from a saved or exported model, or from ``get_concrete_function``.

    Raises:
        DoubleBackwardError: it has tf.nn.moments or bilinear resizing.
    """
    kept: dict[str, Any] = vars(function)
    if "_gradreg_unsafe" not in kept:
        nodes = (node for part in definitions(function._inference_function) for node in part.node_def)
        kept["_gradreg_unsafe"] = next((name for name in map(_unsafe, nodes) if name), "")
    unsafe = kept["_gradreg_unsafe"]
    if unsafe:
        inside = (
            "" if unsafe == _BILINEAR else "trace it inside gradreg_tensorflow.second_order.second_order_safe(), or "
        )
        error = DoubleBackwardError(
            f"the model calls a tf.function that was traced before, with {unsafe}, whose "
            f"second derivative is wrong in TensorFlow without an error. gradreg replaces it only in new traces. "
            f"Pass the model or the function that it was traced from; save a Keras model as a .keras file "
            f"(keras.saving.load_model), not with export. Or {inside}"
            f"use side='input' with method='difference'."
        )
        error._keras_call_info_injected = True  # type: ignore[attr-defined] # or Keras would rewrite the message
        raise error


def _unsafe(node: Any) -> str:
    """The function that made a node, if its second derivative is silently wrong."""
    if node.op == "StopGradient" and "moments" in node.name.split("/"):
        return "tf.nn.moments (used by LayerNormalization)"
    return _BILINEAR if node.op == "ResizeBilinear" else ""


def definitions(function: Any) -> Iterator[Any]:
    """The nodes of a traced function and of the functions it calls."""
    yield function.cached_definition
    for child in function.children:
        yield from definitions(child)


def blame(error: Exception) -> list[tuple[str, str]]:
    """The operation without a second derivative; see :meth:`gradreg_core.backend.Backend.blame`."""
    if isinstance(error, DoubleBackwardError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    if "recompute_grad" in str(error) or lacks_gradient(error):
        return [_explanation(error)]
    return []


def how_it_runs(model: Any) -> list[str]:
    """Notes on what is compiled or on several devices; see :meth:`gradreg_core.backend.Backend.how_it_runs`."""
    notes: list[str] = []
    function = tf.types.experimental.PolymorphicFunction
    owners = list(references(model))
    compiled = [name or "the model" for name, owner in owners if isinstance(owner, function)]
    if compiled:
        notes.append(f"tf.function compiles {', '.join(dict.fromkeys(compiled))}.")
    in_lists = [value for _, owner in owners if isinstance(owner, list | tuple) for value in owner]
    strategies = {
        type(strategy).__name__: strategy.num_replicas_in_sync
        for variable in [*trainable_variables(model), *in_lists]
        if (strategy := getattr(variable, "distribute_strategy", None)) is not None
    }
    notes += [
        f"its variables belong to a {name} with {size} replicas; only one was checked."
        for name, size in strategies.items()
        if size > 1
    ]
    return notes
