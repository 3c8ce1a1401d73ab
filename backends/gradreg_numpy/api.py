"""The calls that every backend has, on portable networks: loss, penalty, measure, check."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from typing_extensions import Unpack

from gradreg_core.errors import GradregError, InputTypeError
from gradreg_core.preflight import CheckReport, Finding
from gradreg_core.results import Measures, Parts
from gradreg_core.signatures import with_named_errors
from gradreg_core.spec import Regularizer
from gradreg_numpy.batch import Batch, LossFunction, Options
from gradreg_numpy.functions import Array
from gradreg_numpy.networks import Model, coupled
from gradreg_numpy.oracle import data_loss, outputs, projected_jacobian, require_target_used, term_values
from gradreg_numpy.projections import pull

__all__ = ["check", "create", "loss", "measure", "penalty"]

_OPTIONS = tuple(Options.__annotations__)


def create() -> SimpleNamespace:
    """The reference as a backend: the result of ``gradreg_core.load_backend("numpy")``."""
    return SimpleNamespace(name="numpy", check=check, loss=loss, measure=measure, penalty=penalty)


@with_named_errors(bound=False, options=_OPTIONS)
def loss(
    model: Model,
    x: Any,
    y: Any,
    reg: Regularizer | None,
    **options: Unpack[Options],
) -> tuple[Any, Parts]:
    """The training loss: mean loss plus penalties.

    Args:
        model: a :class:`Model`.
        x: the input, (B, *input_shape).
        y: integer class labels or distributions over the classes.
        reg: a regularizer, or None.
        options: see :class:`gradreg_numpy.batch.Options`.

    Returns:
        (total, parts) with ``parts.loss``, ``parts.penalty`` (one scalar per term) and ``parts.outputs``.

    Raises:
        InputError, InputTypeError: an argument does not fit.
    """
    batch = Batch.of("loss", model, x, y, **options)
    return _evaluated(batch, reg)


def _evaluated(batch: Batch, reg: Regularizer | None) -> tuple[Any, Parts]:
    require_target_used(batch, reg)
    terms = () if reg is None else tuple(term_values(batch, reg))
    z = outputs(batch, reg)
    data = data_loss(batch, z)
    return data + sum(terms), Parts(data, terms, z)


@with_named_errors(bound=False, options=_OPTIONS)
def penalty(
    model: Model,
    x: Any,
    y: Any,
    reg: Regularizer,
    **options: Unpack[Options],
) -> Any:
    """The penalty alone: the sum over the terms of `reg`. See :func:`loss` for the arguments and errors."""
    batch = Batch.of("penalty", model, x, y, **options)
    return sum(term_values(batch, reg))


def _rows(batch: Batch, output: str) -> Array:
    """J^T e_k for all basis vectors e_k of the output, each for all samples at once: (B, q, d).

    The Jacobian itself if the samples are independent; otherwise the result of a backward pass per output.
    """
    _, J = projected_jacobian(batch, output)
    size = J.shape[1]
    basis = np.broadcast_to(np.eye(size)[:, None, :], (size, len(J), size))
    return np.moveaxis(pull(J, basis), 0, 1)


@with_named_errors(bound=False, per_sample=("sample_weight", "normalizer", "directions", "target"))
def measure(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    position_weight: Any = None,
    ignore_index: int | None = None,
    class_axis: int | None = None,
    loss_fn: LossFunction | None = None,
    wrt: Any = None,
) -> Measures:
    """Norms of each sample's Jacobian, unsquared, arrays of shape (B,): ||J||_F, sigma_max(J), ||dM/dx||.

    Args:
        model: a real :class:`Model`.
        x: the input, (B, *input_shape).
        y: labels, for the norm of the loss's gradient: ||J^T (f - y)|| / positions for cross-entropy.
        position_weight: as in :func:`loss`; it matters whether it is 0, and for the loss its size.
        ignore_index: as in :func:`loss`.
        class_axis: the axis of the outputs that holds the classes.
        loss_fn: a loss with its gradient instead of cross-entropy.
        wrt: as in :func:`loss`.

    Raises:
        InputError, InputTypeError: an argument does not fit.
    """
    batch = Batch.of(
        "measure",
        model,
        x,
        y,
        position_weight=position_weight,
        ignore_index=ignore_index,
        class_axis=class_axis,
        loss_fn=loss_fn,
        wrt=wrt,
    )
    if np.iscomplexobj(batch.x) or any(np.iscomplexobj(value) for value in model.params.values()):
        raise InputTypeError("measure: the model and x must be real.")
    J = _rows(batch, "logits")
    gradient = None if y is None else np.linalg.norm(_rows(batch, "loss"), axis=(1, 2))
    return Measures(np.linalg.norm(J, axis=(1, 2)), np.linalg.norm(J, ord=2, axis=(1, 2)), gradient)


@with_named_errors(bound=False, options=_OPTIONS)
def check(
    model: Model,
    x: Any,
    y: Any,
    reg: Regularizer,
    **options: Unpack[Options],
) -> CheckReport:
    """Look for problems: values, labels, samples coupled by batch normalisation.

    The reference has a second derivative for every layer, and its gradients need no comparison with differences.
    See :func:`loss` for the arguments.

    Returns:
        A report; see :class:`gradreg_core.preflight.CheckReport`.
    """
    findings = []
    try:
        batch = Batch.of("loss", model, x, y, **options)
        _evaluated(batch, reg)
    except GradregError as error:
        findings.append(Finding("error", str(error), ""))
    if coupled(model.network):
        problem = "check: batch normalisation in training mode couples the samples of a batch."
        findings.append(Finding("warning", problem, "Use LayerNorm or GroupNorm, or given statistics."))
    return CheckReport(tuple(findings), None)
