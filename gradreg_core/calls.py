"""The calls that users make, bound to one backend: `loss`, `penalty`, `measure`, `check`."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gradreg_core import engine
from gradreg_core.backend import Array, Backend
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.evaluation import evaluate
from gradreg_core.forward import Call, Forward, forward_pass
from gradreg_core.layout import require_integer_scalar
from gradreg_core.norms import safe_sqrt
from gradreg_core.preflight import CheckReport, run_check
from gradreg_core.projections import exact, orthonormal, top_singular
from gradreg_core.results import Measures, Parts
from gradreg_core.spec import JacobianPenalty, Regularizer

__all__ = ["BATCH_NORM_POLICIES", "Calls"]

BATCH_NORM_POLICIES = ("error", "warn", "allow")
_POWER_ITERATIONS = 30


class Calls:
    """gradreg's calls in one framework: native arrays in, native scalars out, differentiable by its own means.

    The calls share these arguments:

    Args:
        model: any callable x -> outputs of shape (B, ...): a module, or a function that closes over parameters. The
            outputs are logits, without a softmax behind them, unless `loss_fn` says otherwise.
        x: the input, (B, ...), floating point. The gradient is taken with respect to it: apply augmentation and
            normalisation before, or the penalty is in the units of what comes before them.
        y: labels; integer class indices (B,), or probabilities of the outputs' shape. None where no term needs them.
        reg: a regularizer such as ``SpectReg(0.01)``, or a sum.
        step: of training, an int or a (traced) integer scalar; draws, schedules and `every=` depend on it. Without it
            each call is step 0, with the draws of step 0; a schedule and `every=` refuse that.
        seed: of the draws, in place of the terms' own seeds: an integer in [0, 2**64), or a (traced) integer scalar, so
            that the members of an ensemble train in one program, each with its own draws.
        loss_fn: ``loss_fn(outputs, y)`` -> one loss per sample, (B, ...), averaged over further axes; the default is
            cross-entropy of the logits (of a single logit: binary cross-entropy).
        sample_ids: integers (B,), the samples' global numbers, which the draws depend on; default 0..B-1. With them a
            batch that is split over devices has the same draws as the whole.
        sample_weight: (B,), >= 0, or a mask. Means become sum_i w_i v_i / sum_i w_i (0 where all weights are 0).
        normalizer: divide by this instead of sum_i w_i, for parts of a batch of unequal size.
        class_axis: the axis of the outputs that holds the classes; needed only where they have more than two axes.
        directions: for the projection ``direction()``; shape (m,), (B, m) or (k, B, m).
        params: nested parameters for WeightDecay, where the model is a plain function.
        chunk_size: rows of an exact Jacobian that are pulled back at a time.
        batch_norm: what to do with batch normalisation in training mode, which couples the samples, so that the
            gradient of a sample's penalty reaches the others: "error", "warn" (default) or "allow".
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def __repr__(self) -> str:
        return f"<gradreg {self.backend.name} backend>"

    def loss(
        self,
        /,
        model: Any,
        x: Array,
        y: Any,
        reg: Regularizer | None,
        *,
        step: Any = None,
        seed: Any = None,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        params: Any = None,
        chunk_size: int | None = None,
        batch_norm: str = "warn",
    ) -> tuple[Array, Parts]:
        """The training loss: mean loss plus penalties, from one forward pass.

        total = mean_i M(z_i, y_i) + sum over terms. Arguments: ``help(gradreg_core.calls.Calls)``.

        Returns:
            (total, parts) with ``parts.loss``, ``parts.penalty`` (one scalar per term) and ``parts.outputs``.

        Raises:
            InputError: shapes or values do not fit; the message says which and what was expected.
            InputTypeError: a dtype or type does not fit, such as an integer input.
        """
        call = Call(
            self.backend,
            "loss",
            step=step,
            seed=seed,
            loss_fn=loss_fn,
            sample_ids=sample_ids,
            sample_weight=sample_weight,
            normalizer=normalizer,
            class_axis=class_axis,
            directions=directions,
            params=params,
            chunk_size=chunk_size,
        )
        call = _checked(call, x, reg, batch_norm)
        ops = self.backend
        with ops.enter(call.name, model, x, batch_norm) as x:
            evaluation = evaluate(call, model, x, y, reg, with_loss=True)
        data_loss = ops.finish(evaluation.loss)
        total = data_loss
        if evaluation.due:
            total = total + self._total_penalty(call, model, evaluation.due)
        return total, Parts(data_loss, tuple(map(ops.finish, evaluation.penalties)), ops.finish(evaluation.outputs))

    def penalty(
        self,
        /,
        model: Any,
        x: Array,
        y: Any,
        reg: Regularizer,
        *,
        step: Any = None,
        seed: Any = None,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        params: Any = None,
        chunk_size: int | None = None,
        batch_norm: str = "warn",
    ) -> Array:
        """The penalty alone, a scalar: the sum over the terms of `reg`.

        Arguments: ``help(gradreg_core.calls.Calls)``.

        Raises:
            InputError: as `loss`.
            InputTypeError: as `loss`.
        """
        if reg is None:
            raise InputTypeError("penalty: expected a regularizer such as SpectReg(0.01), got None.")
        call = Call(
            self.backend,
            "penalty",
            step=step,
            seed=seed,
            loss_fn=loss_fn,
            sample_ids=sample_ids,
            sample_weight=sample_weight,
            normalizer=normalizer,
            class_axis=class_axis,
            directions=directions,
            params=params,
            chunk_size=chunk_size,
        )
        call = _checked(call, x, reg, batch_norm)
        with self.backend.enter(call.name, model, x, batch_norm) as x:
            evaluation = evaluate(call, model, x, y, reg, with_loss=False)
        return self._total_penalty(call, model, evaluation.due or evaluation.penalties)

    def measure(
        self,
        /,
        model: Any,
        x: Array,
        y: Any = None,
        *,
        projections: int | None = None,
        step: Any = None,
        seed: Any = None,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        sample_ids: Any = None,
        class_axis: int | None = None,
        chunk_size: int | None = None,
        batch_norm: str = "warn",
    ) -> Measures:
        """Jacobian norms of each sample, for monitoring; no gradient flows. Works in no-gradient modes.

        Args:
            model: this and the other arguments: ``help(gradreg_core.calls.Calls)``.
            x: the input.
            y: labels, if the norm of the loss's gradient is wanted.
            projections: None for exact values from the whole Jacobian (m backward passes); an integer k to estimate
                the Frobenius norm from k orthonormal directions and the spectral norm by power iteration, for models
                with many outputs.
            step: of the draws of the estimate.
            seed: of the draws of the estimate.
            loss_fn: of the loss's gradient.
            sample_ids: of the draws of the estimate.
            class_axis: the axis of the outputs that holds the classes.
            chunk_size: rows of the Jacobian that are pulled back at a time.
            batch_norm: "error", "warn" or "allow".

        Raises:
            InputError: as `loss`.
            InputTypeError: as `loss`.
        """
        call = Call(
            self.backend,
            "measure",
            step=step,
            seed=seed,
            loss_fn=loss_fn,
            sample_ids=sample_ids,
            class_axis=class_axis,
            chunk_size=chunk_size,
        )
        call = _checked(call, x, None, batch_norm)
        ops = self.backend
        with ops.enter(call.name, model, x, batch_norm) as x:
            ids = None if call.sample_ids is None else ops.int32(ops.asarray(call.sample_ids, x), x)
            forward = forward_pass(call, model, x, y, ids, (None,))
            frobenius, spectral = _norms(forward, projections)
            gradient = None if y is None else _norm(forward, projection=exact(), output="loss")
            return Measures(
                ops.stop_gradient(frobenius),
                ops.stop_gradient(spectral),
                None if gradient is None else ops.stop_gradient(gradient),
            )

    def check(
        self,
        /,
        model: Any,
        x: Array,
        y: Any,
        reg: Regularizer,
        *,
        step: Any = None,
        seed: Any = None,
        loss_fn: Callable[[Any, Any], Any] | None = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        params: Any = None,
        chunk_size: int | None = None,
    ) -> CheckReport:
        """Look before training: values, layers, second derivatives. Takes a few steps' time and may synchronise.

        Finds labels out of range, outputs that are not finite, batch normalisation in training mode, a term whose one
        draw for the batch penalises nothing behind it, layers or operations without a second derivative (named, with
        what to use instead), a penalty without gradient, a gradient of the penalty that disagrees with finite
        differences (rectifiers and maxima are rounded off for these), and a penalty by difference whose gradient
        depends on h, as over kinks. Changes neither model nor generator state where the framework allows to restore it.

        Arguments: ``help(gradreg_core.calls.Calls)``.

        Returns:
            A report; ``print(report)`` reads well, ``report.ok`` is a bool, ``report.raise_if_failed()`` raises.

        Raises:
            InputTypeError: an argument is of a type that no call takes.
        """
        call = Call(
            self.backend,
            "check",
            step=0 if step is None else step,
            seed=seed,
            loss_fn=loss_fn,
            sample_ids=sample_ids,
            sample_weight=sample_weight,
            normalizer=normalizer,
            class_axis=class_axis,
            directions=directions,
            params=params,
            chunk_size=chunk_size,
        )
        _checked(call, x, reg, "allow")
        return run_check(self, model, x, y, reg, call.options())

    def _total_penalty(self, call: Call, model: Any, penalties: tuple[Array, ...]) -> Array:
        total = penalties[0]
        for penalty in penalties[1:]:
            total = total + penalty
        self.backend.require_gradient(call.name, model, total)
        return self.backend.finish(total)


def _checked(call: Call, x: Any, reg: Any, batch_norm: str) -> Call:
    """The call with its step and seed as numbers where that costs nothing, checked as far as no forward pass is needed.

    Raises:
        InputError: a value does not fit.
        InputTypeError: a type does not fit.
    """
    name, ops, chunk = call.name, call.ops, call.chunk_size
    if reg is not None and not isinstance(reg, Regularizer):
        raise InputTypeError(f"{name}: reg must be a regularizer such as SpectReg(0.01), got {reg!r}.")
    if batch_norm not in BATCH_NORM_POLICIES:
        raise InputError(f"{name}: batch_norm must be one of {BATCH_NORM_POLICIES}, got {batch_norm!r}.")
    if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
        raise InputError(f"{name}: chunk_size must be an integer of at least 1, got {chunk!r}.")
    if call.loss_fn is not None and not callable(call.loss_fn):
        raise InputTypeError(f"{name}: loss_fn must be a function of (outputs, y), got {call.loss_fn!r}.")
    if not ops.is_array(x):
        raise InputTypeError(
            f"{name}: x must be an array of the {ops.name} backend, got {type(x).__module__}.{type(x).__qualname__}. "
            f"Convert it, or import the backend of its framework."
        )
    shape = ops.shape(x)
    if not shape or shape[0] == 0:
        raise InputError(f"{name}: x must have a batch axis with at least one sample, got shape {shape}.")
    if call.step is None:
        _require_no_step(name, reg)
    return replace(call, step=0 if call.step is None else call.step, seed=_checked_seed(ops, name, call.seed))


def _require_no_step(name: str, reg: Regularizer | None) -> None:
    for term in () if reg is None else reg.terms:
        if term.every > 1 or callable(term.weight):
            raise InputError(
                f"{name}: {term!r} depends on the step of training; pass step=, the number of the step. Without it "
                f"every call would be step 0."
            )


def _checked_seed(ops: Backend, name: str, seed: Any) -> Any:
    """The seed as a Python int where that costs nothing, else as it came."""
    if seed is None:
        return None
    static = ops.static_int(seed)
    if static is None and isinstance(seed, int) and not isinstance(seed, bool):
        static = seed  # of a program that is being traced
    if static is None:
        require_integer_scalar(ops, name, "seed", seed)
        return seed
    if not 0 <= static < 2**64:
        raise InputError(f"{name}: seed must be in [0, 2**64), got {static}.")
    return static


def _norm(forward: Forward, **chosen: Any) -> Array:
    """||J_i^T W_i|| of each sample, shape (B,)."""
    return engine.per_sample(JacobianPenalty(1.0, squared=False, **chosen), forward)


def _norms(forward: Forward, projections: int | None) -> tuple[Array, Array]:
    """(||J||_F, sigma_max) of each sample: exact by way of J J^T, or estimated from so many projections."""
    ops = forward.call.ops
    batch, size = forward.layout.shape[0], math.prod(forward.layout.canonical[1:])
    if projections is not None:
        frobenius = _norm(forward, projection=orthonormal(min(projections, size), unbiased=True))
        return frobenius, _norm(forward, projection=top_singular(_POWER_ITERATIONS))
    rows = engine.jacobian_rows(forward)
    jacobian = ops.moveaxis(ops.reshape(rows, (size, batch, -1)), 0, 1)
    gram = ops.matmul(jacobian, ops.moveaxis(jacobian, 1, 2))
    top = ops.eigvalsh(gram)[:, -1]
    return safe_sqrt(ops, ops.sum(jacobian * jacobian, (1, 2))), safe_sqrt(ops, ops.where(top > 0, top, 0.0))
