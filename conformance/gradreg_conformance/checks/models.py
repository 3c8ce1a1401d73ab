"""Models of the framework's own, which hold parameters, a state and a generator of random masks."""

from typing import Any

import numpy as np

from gradreg_conformance.check import Disagreement, NotApplicable, check
from gradreg_conformance.harness import OwnModel
from gradreg_conformance.reference import UNIT_ROUNDOFF, error_ratio
from gradreg_conformance.subject import Subject
from gradreg_core.presets import DataGrad, FrobReg, SpectReg, WeightDecay
from gradreg_core.projections import ones
from gradreg_core.spec import JacobianPenalty
from gradreg_core.terms import Regularizer

_BATCH = 6
_TRAINED, _FROZEN = np.random.default_rng(0).normal(size=(2, 3, 3))
_PRODUCT = _TRAINED @ _TRAINED @ _FROZEN
_FEW_ROUNDINGS = 64


def _own(subject: Subject) -> tuple[OwnModel, Any, Any]:
    """The model, an input and labels."""
    arrays = [subject.array(matrix, subject.dtype) for matrix in (_TRAINED, _FROZEN)]
    own = subject.harness.own_model(*arrays)
    if own is None:
        raise NotApplicable("the harness makes no model of the framework's own")
    x = np.random.default_rng(1).normal(size=(_BATCH, 3))
    return own, subject.array(x, subject.dtype), subject.array(np.arange(_BATCH) % 3, "int64")


def _close(subject: Subject, label: str, result: float, wanted: float) -> None:
    allowed = _FEW_ROUNDINGS * UNIT_ROUNDOFF[subject.dtype] * subject.harness.tolerance * abs(wanted)
    ratio = error_ratio(abs(result - wanted), allowed)
    subject.measured.ratio(ratio)
    if not ratio <= 1:
        raise Disagreement(f"{label}: expected {wanted!r}, got {result!r}")


@check("values")
def parameters_of_a_model(subject: Subject) -> None:
    """WeightDecay without params= is of a model's trained parameters, nested ones too, a shared one once."""
    own, x, y = _own(subject)
    value = subject.harness.calls.penalty(own.model, x, y, WeightDecay(1.0))
    wanted = 0.5 * float((_TRAINED**2).sum())
    _close(subject, "1/2 ||w||^2 of a matrix in two places beside a frozen one", float(subject.numbers(value)), wanted)


@check("laws")
def state_moves_once(subject: Subject) -> None:
    """A call moves the state of the model once, however many passes it makes; measure does too."""
    regs: tuple[Regularizer, ...] = (
        SpectReg(1.0, fraction=0.5),
        SpectReg(1.0, fraction=0.5),
        SpectReg(1.0, fraction=0.5) + SpectReg(1.0, fraction=0.3, seed=1),
        DataGrad(1.0) + SpectReg(1.0, fraction=0.5),
        SpectReg(1.0, side="input", projections=3),
        DataGrad(1.0) + SpectReg(1.0, side="input", method="difference"),
        SpectReg(1.0, side="input", method="difference"),
    )
    calls = subject.harness.calls
    for index, reg in enumerate(regs):
        own, x, y = _own(subject)
        (calls.loss if index % 2 else calls.penalty)(own.model, x, y, reg)
        moved = own.passes()
        if moved != 1:
            name = "loss" if index % 2 else "penalty"
            raise Disagreement(f"{name} with {reg!r} moved the state of the model {moved} times, expected once")
    own, x, y = _own(subject)
    for times in (1, 2):
        calls.measure(own.model, x, y)
        if own.passes() != times:
            raise Disagreement(
                f"measure moved the state of the model {own.passes()} times in {times} calls, expected once per call"
            )


@check("laws")
def check_leaves_the_model(subject: Subject) -> None:
    """The call check moves parameters, state and random generators on copies, or restores them."""
    own, x, y = _own(subject)
    before = float(subject.numbers(subject.harness.calls.penalty(own.model, x, y, WeightDecay(1.0))))
    passes, drawn = own.passes(), subject.harness.random_state()
    subject.harness.calls.check(own.model, x, y, DataGrad(1.0))
    if own.passes() != passes:
        raise Disagreement(f"check moved the state of the model {own.passes() - passes} times, expected never")
    if subject.harness.random_state() != drawn:
        raise Disagreement("check drew from the framework's random generator, and did not restore it")
    after = float(subject.numbers(subject.harness.calls.penalty(own.model, x, y, WeightDecay(1.0))))
    if after != before:
        raise Disagreement(f"check changed the parameters: 1/2 ||w||^2 is {after!r} after it, and was {before!r}")


@check("laws")
def draws_of_the_framework(subject: Subject) -> None:
    """The framework's random generator moves by what the model draws in its passes, and not by gradreg's draws."""
    own, x, y = _own(subject)
    calls, state = subject.harness.calls, subject.harness.random_state
    reg, before = SpectReg(1.0, fraction=0.5) + DataGrad(1.0), state()
    first, second = (subject.numbers(calls.loss(own.model, x, y, reg)[1].outputs) for _ in range(2))
    if np.array_equal(first, second):
        raise Disagreement("two calls of a model that draws a mask anew have the same mask")
    if before is None:
        return
    if (after := state()) == before:
        raise Disagreement("after calls of a model that draws a mask, the framework's random generator is as before")
    calls.loss(lambda x: x * x, x, y, reg)
    calls.measure(lambda x: x * x, x, y, projections=2)
    if state() != after:
        raise Disagreement("calls of a model that draws nothing moved the framework's random generator")


@check("laws")
def masks_are_those_of_the_loss(subject: Subject) -> None:
    """The penalty is of the same random masks as the outputs that come back with it, also by differences."""
    difference = {"method": "difference", "h": 1.0}
    for chosen in ({}, {"side": "input"}, {"side": "input", **difference}, difference, {"fraction": 0.99}):
        own, x, y = _own(subject)
        whole = not chosen or "fraction" in chosen
        reg = FrobReg(1.0, **chosen) if whole else JacobianPenalty(1.0, projection=ones(), **chosen)
        _, parts = subject.harness.calls.loss(own.model, x, y, reg)
        outputs, unmasked = subject.numbers(parts.outputs), subject.numbers(x) @ _PRODUCT
        kept = np.abs(outputs) > 0.5 * np.abs(unmasked)
        if kept.all() or not kept.any():
            raise Disagreement(f"the mask of the harness's model should drop some of the outputs, got {outputs!r}")
        # The Jacobian of z_j = m_j (x A)_j is m_j A^T; its product with (1, ..., 1) has m_j times the sum of a column,
        # and the gradient of the sum of z is A m.
        squares = (_PRODUCT**2).sum(0) if whole else _PRODUCT.sum(0) ** 2
        norms = ((kept @ _PRODUCT.T) ** 2) if chosen is difference else kept * squares
        wanted = float(norms.sum(1).mean())
        _close(subject, f"{reg!r} of a model with a random mask", float(subject.numbers(parts.penalty[0])), wanted)
