"""The outputs that a penalty can be on: values that know how directions pass through the output map.

For logits z of one sample and an output u(z), the Jacobian of u with respect to x is du/dz J. A direction w in the
space of u is pulled back to the logits, (du/dz)^T w; a tangent t of the logits is pushed forward, du/dz t. Both stay
differentiable. Arrays are canonical, (B, positions, classes), and (B, 1, 1) for the loss.
"""

import math
from abc import ABC, abstractmethod

import numpy as np

from gradreg_core.backend import Array
from gradreg_core.errors import InputError
from gradreg_core.forward import Forward, scored
from gradreg_core.layout import is_floating, widened

__all__ = ["OUTPUTS"]

_NO_LABEL = -100
"""The index that PyTorch's losses leave out; no class has it."""


class Output(ABC):
    """A function of the logits that is differentiated with respect to the input."""

    @abstractmethod
    def value(self, forward: Forward) -> Array:
        """u(z)."""

    @abstractmethod
    def pull(self, forward: Forward, w: Array) -> Array:
        """(du/dz)^T w."""

    @abstractmethod
    def push(self, forward: Forward, t: Array) -> Array:
        """du/dz t."""

    def shape(self, forward: Forward) -> tuple[int, int, int]:
        """The shape of u(z)."""
        return forward.layout.canonical


class _Logits(Output):
    """u = z."""

    def value(self, forward: Forward) -> Array:
        return forward.logits

    def pull(self, forward: Forward, w: Array) -> Array:
        return w

    def push(self, forward: Forward, t: Array) -> Array:
        return t


class _Probabilities(Output):
    """u = f, the softmax of z: du/dz = diag(f) - f f^T; for a single logit f (1 - f)."""

    def value(self, forward: Forward) -> Array:
        return forward.probabilities("a penalty on the probabilities")

    def pull(self, forward: Forward, w: Array) -> Array:
        ops, f = forward.call.ops, self.value(forward)
        if forward.layout.canonical[2] == 1:
            return w * (f * (1 - f))
        return f * (w - ops.sum(f * w, -1, keepdims=True))

    def push(self, forward: Forward, t: Array) -> Array:
        return self.pull(forward, t)  # the matrix is symmetric


class _LogProbabilities(Output):
    """u = log f: du/dz = I - 1 f^T; for a single logit 1 - f."""

    def _probabilities(self, forward: Forward) -> Array:
        return forward.probabilities("a penalty on the log_probabilities")

    def value(self, forward: Forward) -> Array:
        ops = forward.call.ops
        self._probabilities(forward)
        single = forward.layout.canonical[2] == 1
        return -ops.softplus(-forward.logits) if single else ops.log_softmax(forward.logits)

    def pull(self, forward: Forward, w: Array) -> Array:
        ops, f = forward.call.ops, self._probabilities(forward)
        if forward.layout.canonical[2] == 1:
            return w * (1 - f)
        return w - f * ops.sum(w, -1, keepdims=True)

    def push(self, forward: Forward, t: Array) -> Array:
        ops, f = forward.call.ops, self._probabilities(forward)
        if forward.layout.canonical[2] == 1:
            return t * (1 - f)
        return t - ops.sum(f * t, -1, keepdims=True)


class _Loss(Output):
    """u = M(z, y): du/dz = (f - y)^T for cross-entropy, and dM/dz for any other loss."""

    def shape(self, forward: Forward) -> tuple[int, int, int]:
        return forward.layout.canonical[0], 1, 1

    def value(self, forward: Forward) -> Array:
        return forward.call.ops.reshape(losses(forward), self.shape(forward))

    def pull(self, forward: Forward, w: Array) -> Array:
        ops, (batch, positions, _) = forward.call.ops, forward.layout.canonical
        if forward.call.loss_fn is not None:
            _, pullback = ops.vjp(lambda outputs: _custom_losses(forward, outputs), forward.outputs)
            try:
                pulled = pullback(ops.reshape(w, (batch,)))
            except InputError as error:
                raise InputError(
                    f"{forward.call.name}: the outputs do not reach what loss_fn returns: it detaches them, rounds "
                    f"them or leaves the framework. Compute the loss with the outputs that it is given."
                ) from error
            return widened(ops, forward.layout.to_canonical(ops, pulled))
        f = forward.probabilities("a penalty on the loss")
        pulled = w * (f - forward.target("a penalty on the loss").distribution)
        share = forward.position_share
        if share is None:
            return pulled if positions == 1 else pulled / positions
        return pulled * ops.reshape(share, (batch, positions, 1))

    def push(self, forward: Forward, t: Array) -> Array:
        ops, shape = forward.call.ops, self.shape(forward)
        ones = ops.constant([[[1.0]]], ops.dtype(forward.logits), forward.logits)
        slope = self.pull(forward, ops.broadcast_to(ones, shape))
        return ops.reshape(ops.sum(slope * t, (1, 2)), shape)


OUTPUTS: dict[str, Output] = {
    "logits": _Logits(),
    "probabilities": _Probabilities(),
    "log_probabilities": _LogProbabilities(),
    "loss": _Loss(),
}
"""The outputs by their names in a specification."""


def losses(forward: Forward) -> Array:
    """The loss of each sample, averaged over its positions, shape (B,): cross-entropy, or the call's `loss_fn`.

    Raises:
        InputError: labels do not fit, or `loss_fn` does not return one loss per sample.
    """
    ops, (batch, positions, classes) = forward.call.ops, forward.layout.canonical
    if forward.call.loss_fn is not None:
        return _custom_losses(forward, forward.outputs)
    target = forward.target("the cross-entropy loss")
    if target.hard and target.checked and classes > 1 and forward.position_weight is None:
        if positions == 1:
            return ops.cross_entropy(forward.wide, target.labels)
        labels = ops.reshape(target.labels, (batch, positions))
        return ops.sum(ops.cross_entropy(forward.logits, labels), 1) / positions
    y, z = target.distribution, forward.logits
    return forward.mean_over_positions(
        ops.sum(ops.softplus(z) - y * z if classes == 1 else (-y) * ops.log_softmax(z), 2)
    )


def _custom_losses(forward: Forward, outputs: Array) -> Array:
    call, ops, batch = forward.call, forward.call.ops, forward.layout.shape[0]
    assert call.loss_fn is not None
    returned = call.loss_fn(scored(forward, outputs), forward.y)
    shape = ops.shape(returned) if ops.is_array(returned) else None
    if shape is None or shape[:1] != (batch,):
        came = f"a result of shape {shape}" if shape is not None else f"{type(returned).__name__}"
        raise InputError(
            f"{call.name}: loss_fn must return one loss for each sample, shape ({batch}, ...), got {came}. "
            f"Pass a loss without its own averaging (reduction='none')."
        )
    if not math.prod(shape) or not is_floating(ops.dtype(returned)):
        raise InputError(
            f"{call.name}: loss_fn must return floating-point losses, at least one for each sample, got "
            f"{ops.dtype(returned)} of shape {shape}, which has no gradient. Return the loss itself, not a comparison "
            f"or a count."
        )
    size = math.prod(ops.shape(outputs))
    if math.prod(shape) > size:
        raise InputError(
            f"{call.name}: loss_fn returned losses of shape {shape} for outputs of shape {ops.shape(outputs)}, "
            f"more than one for each output: labels and outputs were broadcast. Give them one shape."
        )
    returned = widened(ops, returned)
    weight = forward.position_weight
    if weight is None:
        _require_no_ignored_labels(forward)
        return ops.sum(ops.reshape(returned, (batch, -1)), 1) / max(1, math.prod(shape[1:]))
    if math.prod(shape) != math.prod(ops.shape(weight)):
        raise InputError(
            f"{call.name}: with position_weight= or ignore_index=, loss_fn must return one loss for each position, "
            f"shape {forward.layout.position_shape(call.name, 'position_weight')}, got {shape}."
        )
    return forward.mean_over_positions(ops.reshape(returned, ops.shape(weight)))


def _require_no_ignored_labels(forward: Forward) -> None:
    """Refuse labels that `loss_fn` leaves out by itself: the mean would count their zeros.

    Raises:
        InputError: there are such labels, and reading them is free.
    """
    call, ops = forward.call, forward.call.ops
    values = ops.values_if_free(forward.y) if ops.is_array(forward.y) else forward.y
    values = values if isinstance(values, np.ndarray) else None
    if values is None or values.size == 0 or values.dtype.kind != "i":
        return
    options = getattr(call.loss_fn, "keywords", None) or {}
    declared = options.get("ignore_index", getattr(call.loss_fn, "ignore_index", None))
    index = declared if isinstance(declared, int) and (values == declared).any() else int(values.min())
    if index <= _NO_LABEL or index == declared:
        raise InputError(
            f"{call.name}: y holds the label {index}, which loss_fn leaves out, and the mean over the batch counts. "
            f"Pass ignore_index={index} to this call too."
        )
