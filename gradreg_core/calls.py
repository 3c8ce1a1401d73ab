"""The calls that users make, bound to one backend: `loss`, `penalty`, `measure`, `check`."""

from collections.abc import Callable
from typing import Any

from gradreg_core.backend import Array, Backend
from gradreg_core.checked import checked
from gradreg_core.errors import InputTypeError
from gradreg_core.evaluation import Evaluation, evaluate, samples_of
from gradreg_core.forward import Call, forward_pass
from gradreg_core.measuring import norm, norms
from gradreg_core.preflight import CheckReport, run_check
from gradreg_core.preflight.coupling import refuse_coupling
from gradreg_core.projections import exact
from gradreg_core.results import Measures, Parts
from gradreg_core.scalars import integer_option
from gradreg_core.selection import Selector
from gradreg_core.signatures import with_named_errors
from gradreg_core.spec import Regularizer

__all__ = ["Calls"]


class Calls:
    """gradreg's calls in one framework: native arrays in, native scalars out, which the framework differentiates.

    The calls share these arguments:

    Args:
        model: any callable x -> outputs of shape (B, ...): a module, or a function that closes over parameters. The
            outputs are logits, without a softmax at the end, unless `loss_fn` says otherwise.
        x: the input, (B, ...); a nested structure of arrays with a common batch axis, which the model gets as it is; or
            :class:`gradreg_core.inputs.Inputs`, the arguments of ``model(*args, **kwargs)``. The gradient is taken with
            respect to all floating-point arrays in it: apply augmentation and normalisation beforehand, or the penalty
            is in the units of the raw input.
        y: labels; integer class indices (B,), or probabilities of the outputs' shape; any structure that `loss_fn`
            takes. None if no term needs them.
        reg: a regularizer such as ``SpectReg(0.01)``, or a sum.
        step: the training step, an int or a (traced) integer scalar; draws, schedules and `every=` depend on it.
            Without it each call is step 0, with the draws of step 0; schedules and `every=` require it.
        seed: replaces the seeds of the terms' draws: an integer in [0, 2**64), or a (traced) integer scalar, so
            that the members of an ensemble train in one program, each with its own draws.
        loss_fn: ``loss_fn(outputs, y)`` -> one loss per sample, (B, ...), averaged over further axes; the default is
            cross-entropy of the logits (of a single logit: binary cross-entropy).
        outputs: which part of the model's result counts: a path such as "logits" or 0, a function, or a list of these,
            whose arrays count together (and which `loss_fn` gets as a list). Default: the returned array, or its
            `logits`.
        sample_ids: integers (B,), the samples' global numbers, which the draws depend on; default 0..B-1. With them a
            batch that is split over devices has the same draws as the whole.
        sample_weight: (B,), >= 0, or a mask. Means become sum_i w_i v_i / sum_i w_i (0 if all weights are 0).
        position_weight: (B, positions...), the outputs' shape without its class axis, >= 0; of tokens or pixels. A
            sample's loss is the weighted mean over its positions; in every mean over samples a sample counts with the
            sum of its positions' weights, times its `sample_weight`. Positions of weight 0 are left out of every
            penalty.
        ignore_index: the label of positions to leave out: as `position_weight` with 0 there and 1 elsewhere.
        normalizer: divide by this instead of sum_i w_i, for parts of a batch of unequal size.
        class_axis: the axis of the outputs that holds the classes; needed only if they have more than two axes.
        directions: for the projection ``direction()``; shape (m,), (B, m) or (k, B, m).
        target: for SobolevReg: the target Jacobian (B, *outputs, *input), or a teacher model.
        params: nested parameters for WeightDecay, if the model is a plain function.
        chunk_size: how many rows of an exact Jacobian are pulled back at a time.
        batch_norm: what to do with batch normalisation in training mode, which couples the samples, so that the
            gradient of a sample's penalty reaches the others: "error", "warn" (default) or "allow". "error" also
            detects any other coupling, by pulling two samples back, if values can be read at no cost.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    def __repr__(self) -> str:
        return f"<gradreg {self.backend.name} backend>"

    @with_named_errors()
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
        outputs: Selector = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        position_weight: Any = None,
        ignore_index: int | None = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        target: Any = None,
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
            self.backend.for_call(),
            "loss",
            step=step,
            seed=seed,
            loss_fn=loss_fn,
            outputs=outputs,
            sample_ids=sample_ids,
            sample_weight=sample_weight,
            position_weight=position_weight,
            ignore_index=ignore_index,
            normalizer=normalizer,
            class_axis=class_axis,
            directions=directions,
            target=target,
            params=params,
            chunk_size=chunk_size,
        )
        ops, evaluation = call.ops, self._evaluated(call, model, x, y, reg, batch_norm)
        data_loss = ops.finish(evaluation.loss)
        total = data_loss + self._total_penalty(call, model, evaluation.due) if evaluation.due else data_loss
        return total, Parts(data_loss, tuple(map(ops.finish, evaluation.penalties)), _finished(ops, evaluation.outputs))

    @with_named_errors()
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
        outputs: Selector = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        position_weight: Any = None,
        ignore_index: int | None = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        target: Any = None,
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
            self.backend.for_call(),
            "penalty",
            step=step,
            seed=seed,
            loss_fn=loss_fn,
            outputs=outputs,
            sample_ids=sample_ids,
            sample_weight=sample_weight,
            position_weight=position_weight,
            ignore_index=ignore_index,
            normalizer=normalizer,
            class_axis=class_axis,
            directions=directions,
            target=target,
            params=params,
            chunk_size=chunk_size,
        )
        evaluation = self._evaluated(call, model, x, y, reg, batch_norm)
        return self._total_penalty(call, model, evaluation.due or evaluation.penalties)

    @with_named_errors(per_sample=("params", "normalizer", "sample_weight", "directions", "target"))
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
        outputs: Selector = None,
        sample_ids: Any = None,
        position_weight: Any = None,
        ignore_index: int | None = None,
        class_axis: int | None = None,
        chunk_size: int | None = None,
        batch_norm: str = "warn",
    ) -> Measures:
        """Jacobian norms of each sample, for monitoring; no gradient flows. Works in no-gradient modes.

        Without `projections` the values are exact, from the whole Jacobian: m backward passes. With `projections=k` the
        Frobenius norm is estimated from k orthonormal directions and the spectral norm by power iteration, for models
        with many outputs; step, seed and sample_ids control these draws. With labels `y` the norm of the loss's
        gradient is returned too. Other arguments: ``help(gradreg_core.calls.Calls)``.

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
            outputs=outputs,
            sample_ids=sample_ids,
            position_weight=position_weight,
            ignore_index=ignore_index,
            class_axis=class_axis,
            chunk_size=chunk_size,
        )
        call, arguments = checked(call, model, x, None, batch_norm)
        projections = integer_option("measure", "projections", projections, minimum=1)
        ops = self.backend
        with ops.enter(call.name, model, arguments.arrays, batch_norm):
            forward = forward_pass(call, model, samples_of(call, arguments.prepared(), y), ((None, None),))
            frobenius, spectral = norms(forward, projections)
            gradient = None if y is None else norm(forward, projection=exact(), output="loss")
            return Measures(
                ops.stop_gradient(frobenius),
                ops.stop_gradient(spectral),
                None if gradient is None else ops.stop_gradient(gradient),
            )

    @with_named_errors()
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
        outputs: Selector = None,
        sample_ids: Any = None,
        sample_weight: Any = None,
        position_weight: Any = None,
        ignore_index: int | None = None,
        normalizer: Any = None,
        class_axis: int | None = None,
        directions: Any = None,
        target: Any = None,
        params: Any = None,
        chunk_size: int | None = None,
    ) -> CheckReport:
        """Check values, samples and derivatives before training. Takes as long as some fifty steps and synchronises.

        Finds, from what happens on this batch, what :func:`gradreg_core.preflight.run_check` lists: coupled samples,
        missing and wrong derivatives with the parameters' names, underflow, kinks. Without `y` and `loss_fn` the
        penalty is judged without a loss, as for critics and encoders. Parameters are moved and restored.

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
            outputs=outputs,
            sample_ids=sample_ids,
            sample_weight=sample_weight,
            position_weight=position_weight,
            ignore_index=ignore_index,
            normalizer=normalizer,
            class_axis=class_axis,
            directions=directions,
            target=target,
            params=params,
            chunk_size=chunk_size,
        )
        call, arguments = checked(call, model, x, reg, "allow")
        return run_check(self, call, model, arguments, y, reg)

    def _evaluated(self, call: Call, model: Any, x: Any, y: Any, reg: Any, batch_norm: str) -> Evaluation:
        call, arguments = checked(call, model, x, reg, batch_norm)
        with call.ops.enter(call.name, model, arguments.arrays, batch_norm):
            evaluation = evaluate(call, model, arguments.prepared(), y, reg, with_loss=call.name == "loss")
            if batch_norm == "error":
                refuse_coupling(call.name, evaluation.passes)
        return evaluation

    def _total_penalty(self, call: Call, model: Any, penalties: tuple[Array, ...]) -> Array:
        total = penalties[0]
        for penalty in penalties[1:]:
            total = total + penalty
        call.ops.require_gradient(call.name, model, total)
        return call.ops.finish(total)


def _finished(ops: Backend, returned: Any) -> Any:
    """The model's result, as the call returns it."""
    if ops.is_array(returned):
        return ops.finish(returned)
    leaves, rebuild = ops.flatten(returned)
    return rebuild([ops.finish(leaf) if ops.is_array(leaf) else leaf for _, leaf in leaves])
