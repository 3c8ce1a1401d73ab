"""Loss functions that take the labels first, as in Keras and TensorFlow, converted to gradreg's order."""

import functools
import inspect
import sys
from collections.abc import Callable
from typing import Any

from gradreg_core.errors import InputError, InputTypeError

__all__ = ["LabelsFirst", "outputs_first", "require_keras_backend"]

_LABELS = frozenset({"y_true", "labels", "label", "targets", "target", "truth"})
_OUTPUTS = frozenset(
    {"y_pred", "logits", "log_input", "outputs", "output", "predictions", "prediction", "pred", "preds"}
)
_OVER_SAMPLES = {
    "Circle": "compares the samples of a batch with each other",
    "circle": "compares the samples of a batch",
}
_OVER_ALL = {"Dice", "Tversky", "dice", "tversky"}


class LabelsFirst:
    """A loss of (labels, outputs) as a function of (outputs, labels).

    Args:
        loss: the loss.
        ignore_index: the label that it leaves out.
        refuse_mask: whether outputs that carry a Keras mask, which this loss would ignore, are refused.
    """

    def __init__(self, loss: Callable[..., Any], ignore_index: int | None = None, refuse_mask: bool = False) -> None:
        self.loss, self.ignore_index, self.refuse_mask = loss, ignore_index, refuse_mask

    def __call__(self, outputs: Any, labels: Any) -> Any:
        return self.loss(labels, outputs)

    def __repr__(self) -> str:
        return f"LabelsFirst({self.loss!r})"


def outputs_first(call: str, backend: str, loss_fn: Any, weighs_positions: bool) -> Any:
    """`loss_fn` as a function of (outputs, labels) that gives one loss for each sample.

    It recognises the losses of Keras, as objects and as functions, and any function whose first two parameters are
    named as labels and outputs, such as (y_true, y_pred) or (labels, logits); also inside functools.partial. For a
    loss object it takes the losses before the reduction, since gradreg averages over the samples itself.

    Args:
        call: the name of the call, for messages.
        backend: the name of the backend.
        loss_fn: as the user passed it.
        weighs_positions: whether the call gives weights to the positions.

    Raises:
        InputTypeError: a class instead of its instance, a metric, or a loss of Keras on another backend.
        InputError: a loss that is not per sample, or whose arguments are taken.
    """
    inner, taken = loss_fn, 0
    while isinstance(inner, functools.partial):
        taken += len(inner.args)
        inner = inner.func
    owner = getattr(inner, "__self__", None)
    keras = sys.modules.get("keras")
    losses = getattr(keras, "losses", None)
    if losses is not None:
        _require_loss(call, keras, inner)
        if isinstance(inner, losses.Loss) or (
            isinstance(owner, losses.Loss) and inner.__name__ in ("call", "__call__")
        ):
            loss = inner if isinstance(inner, losses.Loss) else owner
            if inner is not loss_fn:
                raise InputError(f"{call}: loss_fn must be the loss {type(loss).__name__} itself, without a partial.")
            _require_backend(call, keras, backend)
            return _of_object(call, loss, weighs_positions)
        if (getattr(inner, "__module__", "") or "").startswith("keras.") and inspect.isfunction(inner):
            _require_backend(call, keras, backend)
            _require_per_sample(call, inner.__name__, _bound(loss_fn))
    if not _takes_labels_first(inner):
        return loss_fn
    if taken:
        raise InputError(
            f"{call}: loss_fn gives {getattr(inner, '__name__', inner)!r} its labels already; pass the labels as y and "
            f"only options by keyword: functools.partial(loss, from_logits=True)."
        )
    return LabelsFirst(loss_fn, _bound(loss_fn).get("ignore_class"))


def _takes_labels_first(function: Any) -> bool:
    """Whether the names of a function's first two parameters are of labels and outputs, in this order."""
    try:
        names = list(inspect.signature(function).parameters)[:2]
    except (TypeError, ValueError):  # not a function, or one without a signature
        return False
    return len(names) == 2 and names[0] in _LABELS and names[1] in _OUTPUTS


def _bound(loss_fn: Any) -> dict[str, Any]:
    """The keyword arguments that partials give."""
    options: dict[str, Any] = {}
    while isinstance(loss_fn, functools.partial):
        options = {**loss_fn.keywords, **options}
        loss_fn = loss_fn.func
    return options


def _of_object(call: str, loss: Any, weighs_positions: bool) -> LabelsFirst:
    if loss.reduction == "sum":
        raise InputError(
            f"{call}: loss_fn={type(loss).__name__}(reduction='sum') adds the losses up, and gradreg means over them. "
            f"Pass reduction='none', and normalizer=1.0 to this call for a sum over the samples."
        )
    config = loss.get_config()
    _require_per_sample(call, type(loss).__name__, config)
    ignored = config.get("ignore_class")
    return LabelsFirst(loss.call, ignored, refuse_mask=not weighs_positions)


def _require_per_sample(call: str, name: str, options: dict[str, Any]) -> None:
    if name in _OVER_SAMPLES:
        raise InputError(
            f"{call}: loss_fn={name} {_OVER_SAMPLES[name]}, so that it is not a mean of one loss for each sample. Pass "
            f"another loss_fn, or add this loss to gradreg's total yourself."
        )
    if name in _OVER_ALL and options.get("axis") is None:
        raise InputError(
            f"{call}: loss_fn={name} without axis= adds up over the whole batch. For one loss of each sample pass "
            f"axis= with all axes but the first one, such as axis=(1, 2, 3) for images."
        )


def require_keras_backend(call: str, backend: str, model: Any) -> None:
    """Refuse a Keras model if Keras runs on another framework in this process.

    Raises:
        InputTypeError: it does.
    """
    layers = getattr(sys.modules.get("keras"), "layers", None)
    if layers is not None and isinstance(model, layers.Layer):
        _require_backend(call, sys.modules["keras"], backend, "the model is one of Keras")


def _require_backend(call: str, keras: Any, backend: str, value: str = "loss_fn is a loss of Keras") -> None:
    own = keras.config.backend()
    if own != backend and backend in ("torch", "jax", "tensorflow"):
        raise InputTypeError(
            f"{call}: {value}, which runs on {own} in this process, and the arrays are of "
            f"{backend}. Set the environment variable KERAS_BACKEND={backend} before Keras is imported."
        )


def _require_loss(call: str, keras: Any, loss_fn: Any) -> None:
    if inspect.isclass(loss_fn) and issubclass(loss_fn, keras.losses.Loss):
        raise InputTypeError(f"{call}: loss_fn must be a loss, got its class; pass {loss_fn.__name__}().")
    metrics = getattr(keras, "metrics", None)
    if metrics is not None and isinstance(loss_fn, metrics.Metric):
        raise InputTypeError(
            f"{call}: loss_fn must be a loss, got the metric {type(loss_fn).__name__}, which averages over what it has "
            f"seen. Pass a loss of keras.losses."
        )
