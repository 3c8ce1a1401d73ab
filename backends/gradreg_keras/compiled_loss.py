"""The losses that a model was compiled with, each as a loss per sample."""

import inspect
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from gradreg_core.errors import InputError
from gradreg_core.loss_functions import outputs_first

__all__ = ["CompiledLoss", "compiled_losses"]

_SPARSE = "sparse"
_OF_LOGITS = "from_logits"


@dataclass(frozen=True)
class CompiledLoss:
    """The loss of one output."""

    key: Any
    """The key of the output and its labels in what the model returns; None for a single output."""
    loss: Any
    """A keras.losses.Loss, or a function of (y_true, y_pred)."""
    weight: Any
    """Its weight from `loss_weights`, or None."""

    @property
    def options(self) -> dict[str, Any]:
        """Its settings: an object's configuration, or a function's defaults."""
        if isinstance(self.loss, keras.losses.Loss):
            config: dict[str, Any] = self.loss.get_config()
            return config
        try:
            parameters = inspect.signature(self.loss).parameters.values()
        except (TypeError, ValueError):  # a callable without a signature
            return {}
        return {one.name: one.default for one in parameters if one.default is not one.empty}

    @property
    def name(self) -> str:
        """The name of the class or the function."""
        return getattr(self.loss, "__name__", type(self.loss).__name__)

    @property
    def takes_indices(self) -> bool:
        """Whether the labels are class indices."""
        return self.name.lower().startswith(_SPARSE)

    @property
    def takes_probabilities(self) -> bool:
        """Whether it takes the outputs for probabilities, not for logits."""
        return self.options.get(_OF_LOGITS) is False

    @property
    def reduction(self) -> str:
        """How Keras reduces it over the batch."""
        return getattr(self.loss, "reduction", "sum_over_batch_size") or "none"

    @property
    def ignored(self) -> int | None:
        """The label that it ignores."""
        ignored: int | None = self.options.get("ignore_class")
        return ignored

    def labels(self, y: Any) -> Any:
        """Labels in gradreg's form: indices (B, ...) of an integer type; floating-point distributions.

        Binary labels (B, 1) stay as they are.
        """
        if y is None:
            return None
        shape, dtype = y.shape, keras.backend.standardize_dtype(y.dtype)
        column = len(shape) == 2 and shape[1] == 1
        whole = "int" in dtype or dtype == "bool"
        if self.takes_indices:
            y = ops.squeeze(y, 1) if column else y
            return y if whole else ops.cast(y, "int32")
        return ops.cast(y, keras.config.floatx()) if whole and len(shape) > 1 and not column else y

    def require_per_sample(self) -> None:
        """Refuse a loss that is not a mean of one loss per sample.

        Raises:
            InputError: it compares samples, or sums over the batch.
        """
        if getattr(self.loss, "__module__", "").startswith("keras.") or isinstance(self.loss, keras.losses.Loss):
            outputs_first("RegularizedModel", keras.config.backend(), self.loss, False)

    def per_sample(self, y: Any, z: Any) -> Any:
        """The losses (B,) of labels and outputs, averaged over further axes, times the loss's weight."""
        if isinstance(self.loss, keras.losses.Loss):
            y, z = (ops.convert_to_tensor(value, dtype=self.loss.dtype) for value in (y, z))
            losses = self.loss.call(y, z)
        else:
            z = ops.convert_to_tensor(z, dtype=keras.config.floatx())
            losses = self.loss(*_same_rank(ops.convert_to_tensor(y, dtype=keras.config.floatx()), z))
        further = tuple(range(1, len(losses.shape)))
        losses = ops.mean(losses, axis=further) if further else losses
        return losses if self.weight is None else losses * self.weight


def _same_rank(y: Any, z: Any) -> tuple[Any, Any]:
    """Labels (B,) of outputs (B, 1), or the reverse, reshaped to fit as in Keras."""
    longer = len(y.shape) - len(z.shape)
    if longer == 1 and y.shape[-1] == 1:
        return (y, ops.expand_dims(z, -1)) if len(z.shape) == 1 else (ops.squeeze(y, -1), z)
    if longer == -1 and z.shape[-1] == 1:
        return (ops.expand_dims(y, -1), z) if len(y.shape) == 1 else (y, ops.squeeze(z, -1))
    return y, z


def compiled_losses(loss: Any, weights: Any) -> list[CompiledLoss]:
    """The losses among compile's arguments, without those that are None.

    Raises:
        InputError: there is no loss, one is a structure of losses, or one is a sum over the batch.
    """
    if isinstance(loss, dict | list | tuple):
        pairs = list(loss.items() if isinstance(loss, dict) else enumerate(loss))
        if isinstance(weights, dict) or weights is None:
            own = dict(weights or {})
        else:
            own = dict(zip([key for key, _ in pairs], weights, strict=True))
    else:
        pairs = [(None, loss)]
        own = {None: weights[0] if isinstance(weights, list | tuple) and len(weights) == 1 else weights}
    if any(isinstance(one, dict | list | tuple) for _, one in pairs):
        raise InputError(f"RegularizedModel.compile: expected one loss per output, got structures of losses: {loss!r}.")
    losses = [CompiledLoss(key, keras.losses.get(one), own.get(key)) for key, one in pairs if one is not None]
    if not losses:
        raise InputError(f"RegularizedModel.compile: expected a loss, got {loss!r}.")
    return losses
