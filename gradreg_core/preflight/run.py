"""Runs the pre-flight check: all probes in order."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from gradreg_core.backend import Array, Pair, Pullback
from gradreg_core.errors import BatchNormError, GradregError, InputError, InputTypeError
from gradreg_core.forward import Call, Forward, application
from gradreg_core.inputs import Arguments
from gradreg_core.outputs import OUTPUTS
from gradreg_core.preflight.coupling import axis_of_samples, coupling, coupling_of_losses, describe
from gradreg_core.preflight.gradients import against_differences, lost, not_finite
from gradreg_core.preflight.precision import underflow
from gradreg_core.preflight.probes import cut_samples, empty_terms, is_random, kinks, probabilities, random_pairs
from gradreg_core.preflight.report import CheckReport, Finding
from gradreg_core.preflight.subject import BoundCalls, Subject, charged_terms, jacobian_terms
from gradreg_core.spec import Regularizer

__all__ = ["run_check"]

Result = TypeVar("Result")


def run_check(
    calls: BoundCalls, call: Call, model: Any, arguments: Arguments, y: Any, reg: Regularizer | None
) -> CheckReport:
    """See :meth:`gradreg_core.calls.Calls.check`.

    The check judges what happens on the batch, not the names of layers:

    - labels out of range, outputs that are not finite, outputs after a softmax;
    - samples that are coupled: one sample's outputs pulled back reach the inputs of others, as through batch
      statistics, the edges of a graph, a leading time axis; or a loss over pairs;
    - operations without a second derivative (named, with what to use instead), and penalties without gradient;
    - a gradient that disagrees with finite differences, along the input and along the parameters, which are named;
      rectifiers and maxima are rounded off for these;
    - gradients that underflow in half precision, and how a loss scale helps them;
    - a penalty by difference over kinks, or of a model that draws its own random numbers;
    - a model that holds arrays of the batch, with `fraction=`; one draw for the batch after batch statistics.

    The report notes if the model is compiled, or shared by devices or processes.

    Parameters are moved on copies. If a PyTorch model cannot be copied (it is distributed, compiled, or holds objects
    that Python cannot copy), they are moved on the model itself and restored, also after an error: no other thread may
    use the model meanwhile. Random generators that are global to the process are set, and restored.
    A framework's exception becomes a finding, by its name.

    Raises:
        InputTypeError: there is no regularizer.
        InputError: a program is being traced.
    """
    if reg is None:
        raise InputTypeError("check: expected a regularizer such as SpectReg(0.01), got None.")
    with calls.backend.copied(model) as copy:
        subject = Subject(calls, call, copy, arguments, y, reg)
        _require_values(subject)
        notes = calls.backend.how_it_runs(model, [array for array in (*arguments.arrays, y) if array is not None])
        with calls.backend.repeatable(copy):
            return replace(_Run(subject).report(), notes=tuple(notes))


def _require_values(subject: Subject) -> None:
    """Refuse a call whose values cannot be read.

    Raises:
        InputError: a program is being traced, or the input is sparse, deleted, or of a device without memory.
    """
    ops = subject.ops
    try:
        float(ops.sum(ops.arange(2, subject.arguments.like), 0))
        if not ops.dtype(subject.arguments.like).startswith("complex"):  # which has no cast, and which the call refuses
            float(ops.sum(ops.astype(ops.reshape(subject.arguments.like, (-1,))[:1], "float32"), 0))
    except Exception as error:
        raise InputError(
            f"check: it reads values, which this input does not have ({_named(error)}). Call it in eager mode, outside "
            f"tf.function, jax.jit and torch.compile, with dense arrays in memory."
        ) from error


class _Run:
    """One check: the probes in order, and their findings."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.ops = subject, subject.ops
        self.findings: list[Finding] = []
        self.disagreement: float | None = None
        self.is_coupled = self.is_lost = False

    def report(self) -> CheckReport:
        """The findings of all probes that the call reaches."""
        layer = self._first_call()
        if layer is not None:
            self._look(layer)
        return CheckReport(tuple(self.findings), self.disagreement)

    def _look(self, layer: str) -> None:
        terms = jacobian_terms(self.subject.reg)
        if not terms:
            return
        pairs = tuple(dict.fromkeys((term.of, term.at) for term in terms))
        with self.ops.repeatable(self.subject.model):  # its end writes into buffers that pullbacks need
            forward = self._guarded("a pass", lambda: self._forward(pairs))
            if forward is None or not self._reaches(forward, pairs):
                return
            self._coupling(forward, pairs, layer)
        if self.subject.y is not None and self.subject.call.loss_fn is None:
            self.findings += probabilities(self.subject, forward)
        pairs_differ = self._guarded("method='difference'", lambda: random_pairs(self.subject)) or []
        self.findings += pairs_differ
        scale = self._gradient()
        if scale is None:
            return
        empty = self._guarded("the terms", lambda: empty_terms(self.subject)) or []
        self.findings += empty
        if len(empty) < len(terms):
            self._differences(scale, bool(pairs_differ))
        self.findings += self._guarded("parts", lambda: cut_samples(self.subject, forward, self.is_coupled)) or []

    def _first_call(self) -> str | None:
        """Call as training does; the message on batch normalisation or "", or None if the call fails."""
        subject, layer = self.subject, ""
        for policy in ("error", "allow"):
            try:
                with self.ops.repeatable(subject.model):
                    self._call(policy)
                return layer
            except BatchNormError as error:
                layer = str(error)
            except Exception as error:
                self._blame("the call", error)
                return None
        return layer

    def _call(self, policy: str) -> None:
        subject = self.subject
        x = subject.arguments.as_passed(subject.packed)
        if subject.y is None and subject.call.loss_fn is None:  # as for critics and encoders
            subject.calls.penalty(subject.model, x, None, subject.reg, batch_norm=policy, **subject.options)
        else:
            subject.calls.loss(subject.model, x, subject.y, subject.reg, batch_norm=policy, **subject.options)

    def _blame(self, owner: str, error: Exception) -> None:
        """Add the finding for an exception: the operations that it is about, its own message, or its name."""
        subject = self.subject

        def run(model: Any) -> Any:
            return application(subject.call, subject.arguments)(model, subject.packed)

        try:
            rows = self.ops.blame(error, subject.model, run)
        except Exception:  # the model may not run a second time
            rows = []
        if rows:
            self.findings += [Finding("error", problem, remedy) for problem, remedy in rows]
        elif isinstance(error, GradregError):
            self.findings.append(Finding("error", str(error), ""))
        else:
            remedy = "Call the model and gradreg.penalty on this batch without check for the whole traceback."
            self.findings.append(Finding("error", f"{owner} raises {_named(error)}.", remedy))

    def _guarded(self, owner: str, probe: Callable[[], Result]) -> Result | None:
        """The result of a probe; if it raises, None and a finding."""
        try:
            return probe()
        except Exception as error:
            problem = f"{owner} could not be checked: {_named(error)}."
            self.findings.append(Finding("warning", problem, ""))
            return None

    def _forward(self, pairs: Sequence[Pair]) -> Forward:
        return self.subject.forward(self.subject.samples(self.subject.packed), pairs)

    def _reaches(self, forward: Forward, pairs: Sequence[Pair]) -> bool:
        """Whether every pair of places, and the loss, has a derivative that is not zero."""
        subject, ops = self.subject, self.ops
        for of, at in pairs:
            value = forward.outputs if of is None else forward.values[of]
            pulled = self._guarded("x", partial(_pulled, subject, value, forward.pullbacks[of, at]))
            if pulled is None:
                return False
            if subject.length(pulled) == 0:
                earlier, later = at or "x", of or "the outputs"
                problem = f"{earlier} does not reach {later}: the derivative is exactly zero, and so is the penalty."
                remedy = (
                    "Look for stop_gradient, detach, rounding, argmax or integer types on the way, or for dead or "
                    "saturated units."
                )
                self.findings.append(Finding("error", problem, remedy))
                return False
        if subject.call.loss_fn is None or not self._uses_loss():
            return True
        ones = ops.constant([[[1.0]]], ops.dtype(forward.logits), forward.logits)
        slope = OUTPUTS["loss"].pull(forward, ops.broadcast_to(ones, (forward.layout.canonical[0], 1, 1)))
        if subject.length(slope) == 0:
            problem = "the derivative of loss_fn with respect to the outputs is exactly zero, and so is the penalty."
            self.findings.append(Finding("error", problem, "Look for stop_gradient, detach or argmax in loss_fn."))
            return False
        return True

    def _uses_loss(self) -> bool:
        return any(term.output == "loss" for term in jacobian_terms(self.subject.reg))

    def _coupling(self, forward: Forward, pairs: Sequence[Pair], layer: str) -> None:
        """Findings if a sample depends on others; `layer` is the call's message on batch normalisation."""
        ops = self.ops
        for of, at in pairs:
            value, pullback = forward.outputs if of is None else forward.values[of], forward.pullbacks[of, at]
            seen = self._guarded("coupled samples", partial(coupling, ops, value, pullback))
            if seen is not None:
                shape = ops.shape(self.subject.packed) if at is None else ops.shape(forward.values[at])
                problem, remedy = describe(seen, (of, at), axis_of_samples(ops, value, shape, pullback))
                self.is_coupled = True
                text = f"{layer} {problem}" if layer else problem
                self.findings.append(Finding("warning", text, "" if layer else remedy))
                return
        if layer:
            self.findings.append(Finding("warning", layer, ""))
        if self.subject.call.loss_fn is not None and self._uses_loss():
            seen = self._guarded("coupled losses", lambda: coupling_of_losses(forward))
            if seen is not None:
                problem = (
                    "the loss of a sample depends on the outputs of others, as a loss over pairs or a batch's softmax "
                    "does, so the penalty on the loss sums what reaches a sample from all losses before its norm."
                )
                self.is_coupled = True
                self.findings.append(
                    Finding("warning", problem, "Penalise the outputs, with SpectReg, if that is not intended.")
                )

    def _gradient(self) -> float | None:
        """Differentiate the penalty once; the loss scale that suits it, or None if there is nothing to compare."""
        subject = self.subject
        charged = charged_terms(subject.reg, subject.call.step)
        assert charged is not None
        try:
            objective = subject.objective(charged)
            gradients = objective.gradients(subject.packed)
            bad = not_finite(subject, objective, gradients)
            if bad:
                self.findings += bad
                return None
            scale, scaled, lossy = underflow(subject, objective, gradients)
            nothing = lost(subject, objective, scaled)
        except Exception as error:
            self._blame("differentiating the penalty", error)
            return None
        self.findings += lossy + nothing
        self.is_lost = bool(nothing)
        return scale

    def _differences(self, scale: float, pairs_differ: bool) -> None:
        subject = self.subject
        if pairs_differ:
            return
        if self._guarded("random numbers", lambda: is_random(subject)):
            problem = (
                "the model draws random numbers that are out of the backend's reach, so its gradient could not be "
                "compared with differences."
            )
            self.findings.append(Finding("warning", problem, "Call check on the model in evaluation mode too."))
            return
        compared = self._guarded("differences", lambda: against_differences(subject, scale, not self.is_lost))
        if compared is not None:
            self.disagreement, findings = compared
            self.findings += findings
        self.findings += self._guarded("kinks", lambda: kinks(subject)) or []


def _pulled(subject: Subject, value: Array, pullback: Pullback) -> Array:
    """A random cotangent pulled back."""
    return pullback(subject.random(value))


def _named(error: Exception) -> str:
    """The exception's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
