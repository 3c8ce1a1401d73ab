"""The arguments of gradreg's calls for one batch of Keras: labels, loss, outputs and weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
from keras import ops

from gradreg_core.errors import InputError
from gradreg_core.loss_functions import LabelsFirst
from gradreg_core.presets import WeightDecay
from gradreg_core.spec import Regularizer
from gradreg_keras.compiled_loss import CompiledLoss

__all__ = ["Question", "refuse_probabilities"]


@dataclass(frozen=True)
class Question:
    """A batch as arguments of gradreg's calls.

    Args:
        reg: the regularizer.
        losses: the losses that the model was compiled with.
        names: the names of the outputs, if the model returns a list of them; or None.
        outputs: the model's option `outputs`.
    """

    reg: Regularizer
    losses: tuple[CompiledLoss, ...]
    names: Sequence[str] | None
    outputs: Any

    def arguments(self, y: Any, sample_weight: Any, normalizer: Any, size: int) -> dict[str, Any]:
        """y, loss_fn, outputs, sample_weight and normalizer of the call.

        Raises:
            InputError: the output to penalise is ambiguous, or the weights are not one per sample.
        """
        losses = self._with_keys(y)
        if self.needs_loss:
            for loss in losses:
                loss.require_per_sample()
        chosen = losses if len(losses) == 1 else self._chosen(losses)
        refuse_probabilities(self.reg, chosen, self.outputs)
        arguments = self._of_one(chosen[0], y) if len(chosen) == 1 else self._of_all(chosen, y)
        weight = self._weight(chosen, sample_weight)
        if normalizer is None and weight is not None:
            reductions = {loss.reduction for loss in chosen}
            ignored = any(loss.ignored is not None for loss in chosen)
            normalizer = None if reductions == {"mean_with_sample_weight"} or ignored else float(size)
        return {**arguments, "sample_weight": weight, "normalizer": normalizer}

    @property
    def needs_loss(self) -> bool:
        """Whether a term penalises the loss's gradient."""
        return any(_is_of_loss(term) for term in self.reg.terms)

    def _with_keys(self, y: Any) -> tuple[CompiledLoss, ...]:
        """One loss per output: a single loss applies to each of several outputs."""
        if len(self.losses) > 1 or self.losses[0].key is not None or not isinstance(y, dict | list | tuple):
            return self.losses
        keys = list(y) if isinstance(y, dict) else list(range(len(y)))
        return tuple(CompiledLoss(key, self.losses[0].loss, self.losses[0].weight) for key in keys)

    def _chosen(self, losses: tuple[CompiledLoss, ...]) -> tuple[CompiledLoss, ...]:
        """The losses of the selected outputs."""
        keys = [loss.key for loss in losses]
        on_outputs = [type(term).__name__ for term in self.reg.terms if _is_of_outputs(term)]
        if self.outputs is None:
            if on_outputs:
                raise InputError(
                    f"RegularizedModel: {on_outputs[0]} is a penalty on one output, and the model has the outputs "
                    f"{keys}. Select one: RegularizedModel(model, reg, outputs={keys[0]!r})."
                )
            return losses
        if self.needs_loss:
            raise InputError(
                f"RegularizedModel: outputs={self.outputs!r} leaves out losses that the model is compiled with, but a "
                f"term of {self.reg!r} penalises the gradient of the loss. Leave outputs= out, so that the losses of "
                f"all outputs add up, or use a separate model for the terms on one output."
            )
        return tuple(loss for loss in losses if self._is_key(loss.key, self.outputs)) or losses

    def _is_key(self, key: Any, other: Any) -> bool:
        return bool(key == other or (self.names and isinstance(key, int) and self.names[key] == other))

    def _of_one(self, loss: CompiledLoss, y: Any) -> dict[str, Any]:
        selector = self.outputs if loss.key is None else partial(taken, key=loss.key, names=self.names)
        labels = loss.labels(taken(y, key=loss.key, names=self.names))
        total = loss.per_sample if self.needs_loss else no_losses
        fn = LabelsFirst(total, loss.ignored, refuse_mask=True)
        return {"y": labels, "loss_fn": fn, "outputs": selector, "ignore_index": loss.ignored}

    def _of_all(self, losses: tuple[CompiledLoss, ...], y: Any) -> dict[str, Any]:
        if self.outputs is not None:  # no loss is needed
            return {"y": None, "loss_fn": LabelsFirst(no_losses, refuse_mask=True), "outputs": self.outputs}
        selectors = [partial(taken, key=loss.key, names=self.names) for loss in losses]
        labels = [loss.labels(selector(y)) for loss, selector in zip(losses, selectors, strict=True)]

        def total(ys: Any, zs: Any) -> Any:
            return sum(loss.per_sample(y, z) for loss, y, z in zip(losses, ys, zs, strict=True))

        fn = LabelsFirst(total if self.needs_loss else no_losses, refuse_mask=True)
        return {"y": labels, "loss_fn": fn, "outputs": selectors}

    def _weight(self, chosen: tuple[CompiledLoss, ...], weight: Any) -> Any:
        """One weight per sample, or None."""
        if isinstance(weight, dict | list | tuple):
            if len(chosen) > 1:
                raise InputError(
                    "RegularizedModel: sample_weight has weights per output, but the penalty is on several outputs "
                    "together. Pass one array of weights, one per sample."
                )
            weight = taken(weight, key=chosen[0].key, names=self.names)
        if weight is None:
            return None
        shape = tuple(weight.shape)
        if len(shape) == 2 and shape[1] == 1:
            return ops.squeeze(weight, 1)
        if len(shape) != 1:
            raise InputError(
                f"RegularizedModel: expected sample_weight of shape (B,), one weight per sample, got {shape}. Weights "
                f"of positions do not work in fit; call gradreg.loss with position_weight= in your own train_step."
            )
        return weight


def taken(structure: Any, key: Any, names: Sequence[str] | None) -> Any:
    """The part of outputs, labels or weights at a key; a name is looked up as its index in a list, and vice versa."""
    if key is None:
        return structure
    if isinstance(structure, dict):
        if key not in structure and names and isinstance(key, int):
            key = names[key]
        return structure[key]
    if not isinstance(structure, list | tuple):
        return structure
    return structure[names.index(key) if names and isinstance(key, str) else key]


def no_losses(labels: Any, outputs: Any) -> Any:
    """A loss of 0 per sample, if no term needs the loss: Keras computes its own."""
    first = keras.tree.flatten(outputs)[0]
    values = ops.reshape(first, (first.shape[0], -1))[:, 0]
    return values - ops.stop_gradient(values)


def refuse_probabilities(reg: Regularizer, losses: Sequence[CompiledLoss], outputs: Any) -> None:
    """Refuse penalties on logits if the model returns probabilities.

    Raises:
        InputError: the compiled loss has from_logits=False, and a term treats the outputs as logits.
    """
    loss = next((loss for loss in losses if loss.takes_probabilities), None)
    if loss is None:
        return
    for term in reg.terms:
        if _is_of_outputs(term) and (outputs is None or getattr(term.lower(), "output", "") != "logits"):
            raise InputError(
                f"RegularizedModel: {type(term).__name__} is a penalty on logits, but the compiled loss {loss.name} "
                f"has from_logits=False, so the model returns probabilities. Leave the softmax or sigmoid out of "
                f"its last layer, and compile it with {loss.name}(from_logits=True)."
            )


def _is_of_loss(term: Any) -> bool:
    return getattr(term.lower(), "output", None) == "loss"


def _is_of_outputs(term: Any) -> bool:
    """Whether a term penalises the model's outputs, not its loss."""
    lowered = term.lower()
    if lowered is None:
        return not isinstance(term, WeightDecay)
    return lowered.output != "loss" and lowered.of is None
