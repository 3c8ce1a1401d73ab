"""The outputs that a penalty may be on, with hand-derived Jacobians, and the functions of the logits for them.

A single class is binary: f is the logistic function of the one logit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gradreg_numpy.batch import Batch
from gradreg_numpy.functions import Array, log_softmax, sigmoid, softmax, softplus
from gradreg_numpy.layout import labels_of
from gradreg_numpy.positions import mean_over_positions, shares

__all__ = ["OUTPUTS", "Output", "losses", "negative_entropy", "probabilities"]


def probabilities(z: Array) -> Array:
    """The softmax f of canonical logits (B, positions, classes); for one class, the logistic function."""
    return sigmoid(z) if z.shape[-1] == 1 else softmax(z)


def _log_probabilities(z: Array) -> Array:
    return -softplus(-z) if z.shape[-1] == 1 else log_softmax(z)


def negative_entropy(batch: Batch, z: Array) -> Array:
    """Mean over positions of sum_k f_k log f_k, shape (B,); for one class f log f + (1 - f) log(1 - f)."""
    single = z.shape[-1] == 1
    products = -sigmoid(z) * softplus(-z) - sigmoid(-z) * softplus(z) if single else softmax(z) * log_softmax(z)
    return mean_over_positions(batch.position_weight, products.sum(axis=-1))


def _cross_entropy(z: Array, y: Array) -> Array:
    """-sum_k y_k log f_k at each position, (B, positions); for one class -y log f - (1 - y) log(1 - f)."""
    products = y * softplus(-z) + (1 - y) * softplus(z) if z.shape[-1] == 1 else -y * log_softmax(z)
    return np.asarray(products.sum(axis=-1))


def losses(batch: Batch, outputs: Array) -> Array:
    """The loss of each sample for outputs (B, *own), shape (B,): cross-entropy, or the call's loss."""
    if batch.loss_fn is not None:
        values = np.asarray(batch.loss_fn.value(outputs, batch.y)).reshape(len(outputs), -1)
        return mean_over_positions(batch.position_weight, values)
    labels = labels_of(batch.call, batch.y, batch.view, len(outputs), "the cross-entropy loss")
    values = _cross_entropy(batch.view.canonical(outputs), labels.distribution)
    return mean_over_positions(batch.position_weight, values)


@dataclass(frozen=True)
class Output:
    """A quantity whose Jacobian is penalised, as a function of a batch and the network's outputs (B, *own)."""

    value: Callable[[Batch, Array], Array]
    """Its values, (B, q)."""
    jacobian: Callable[[Batch, Array], Array]
    """Its derivative with respect to the canonical outputs, (B, q, m)."""


def _per_position(name: str, value: Callable[[Array], Array], block: Callable[[Array], Array]) -> Output:
    """An output of the logits' own size whose positions do not mix.

    `block` gives its Jacobian at every position, (B, positions, classes, classes), from canonical logits.
    """

    def jacobian(batch: Batch, outputs: Array) -> Array:
        batch.view.require_classes(batch.call, f"a penalty on the {name}")
        blocks = block(batch.view.canonical(outputs))
        samples, positions, classes, _ = blocks.shape
        whole = np.zeros((samples, positions, classes, positions, classes), dtype=blocks.dtype)
        for position in range(positions):
            whole[:, position, :, position, :] = blocks[:, position]
        return whole.reshape(samples, batch.view.size, batch.view.size)

    return Output(lambda batch, outputs: value(batch.view.canonical(outputs)).reshape(len(outputs), -1), jacobian)


def _probabilities_block(z: Array) -> Array:
    """diag(f) - f f^T; for one class f (1 - f)."""
    if z.shape[-1] == 1:
        return (sigmoid(z) * sigmoid(-z))[..., None]
    f = softmax(z)
    return np.asarray(f[..., :, None] * np.eye(z.shape[-1]) - f[..., :, None] * f[..., None, :])


def _log_probabilities_block(z: Array) -> Array:
    """I - 1 f^T; for one class 1 - f."""
    return sigmoid(-z)[..., None] if z.shape[-1] == 1 else np.eye(z.shape[-1]) - softmax(z)[..., None, :]


def _logits_jacobian(batch: Batch, outputs: Array) -> Array:
    return np.broadcast_to(np.eye(batch.view.size), (len(outputs), batch.view.size, batch.view.size))


def _loss_gradient(batch: Batch, outputs: Array) -> Array:
    """dM_i/dz_i, (B, 1, m): (f - y) / positions for cross-entropy, or with the weights of the positions."""
    share = shares(batch.position_weight, batch.view.positions)[:, :, None]
    if batch.loss_fn is not None:
        gradient = batch.view.canonical(np.asarray(batch.loss_fn.gradient(outputs, batch.y)))
        gradient = gradient if batch.position_weight is None else gradient * (share * batch.view.positions)
    else:
        labels = labels_of(batch.call, batch.y, batch.view, len(outputs), "a penalty on the loss")
        gradient = (probabilities(batch.view.canonical(outputs)) - labels.distribution) * share
    return gradient.reshape(len(outputs), 1, batch.view.size)


OUTPUTS: dict[str, Output] = {
    "logits": Output(lambda batch, outputs: batch.view.canonical(outputs).reshape(len(outputs), -1), _logits_jacobian),
    "probabilities": _per_position("probabilities", probabilities, _probabilities_block),
    "log_probabilities": _per_position("log_probabilities", _log_probabilities, _log_probabilities_block),
    "loss": Output(lambda batch, outputs: losses(batch, outputs).reshape(len(outputs), 1), _loss_gradient),
}
"""The outputs by their name in a specification."""
