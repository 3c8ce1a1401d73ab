"""Outputs among others in a structure: values and gradients against the reference, and what comes back."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

import gradreg_numpy
from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.forms import RETURNS, Form
from gradreg_conformance.reference import UNIT_ROUNDOFF, expected_value
from gradreg_conformance.strategies import TINY, cases
from gradreg_conformance.subject import Subject
from gradreg_core.presets import ConfidencePenalty, DataGrad
from gradreg_core.projections import exact, fisher, gaussian
from gradreg_core.spec import JacobianPenalty, Regularizer
from gradreg_core.structures import flatten
from gradreg_numpy.oracle import COMPLEX_STEP

_ONE = tuple(name for name in RETURNS if name != "pieces")
_BATCH = 5
_ROUNDINGS = 256
"""Of sums of thirty products of numbers near 1."""
_REGS: tuple[Regularizer, ...] = (
    JacobianPenalty(1.0, projection=gaussian(), fraction=0.5),
    DataGrad(1.0) + ConfidencePenalty(1.0),
    JacobianPenalty(1.0, projection=fisher()) + JacobianPenalty(1.0, projection=gaussian(), seed=1, fraction=0.5),
    JacobianPenalty(1.0, projection=exact(), output="probabilities", norm="linf"),
    JacobianPenalty(1.0, projection=gaussian(), side="input"),
)
_OF_SEVERAL: tuple[Regularizer, ...] = (
    JacobianPenalty(1.0, projection=gaussian(), fraction=0.5) + DataGrad(1.0),
    JacobianPenalty(1.0, projection=gaussian(), side="input"),
)


def _agree(subject: Subject, reg: Regularizer, form: Form, **options: Any) -> None:
    given = {name: st.just(value) for name, value in {"form": form, **options}.items()}
    given["sample_weight"] = st.sampled_from([None, (1.0, 0.5, 2.0, 0.0, 1.0)])
    drawn = cases(subject.harness, st.just(reg), st.just(TINY), batch=(_BATCH, _BATCH), **given)
    subject.given(drawn, cost=5)(subject.agree_in_total)


@check("gradients")
def selected_outputs(subject: Subject) -> None:
    """outputs= by a path, a position and a function, and the logits of an object or a mapping, are what counts."""
    for returns, reg in zip(_ONE, _REGS, strict=True):
        _agree(subject, reg, Form(returns=returns))


@check("gradients")
def several_outputs(subject: Subject) -> None:
    """Outputs that a list selects count together, in its order, and a loss of the caller's gets them as a list."""
    for reg, labels in zip(_OF_SEVERAL, ("dict", "array"), strict=True):
        _agree(subject, reg, Form(returns="pieces", labels=labels), loss="squared")


@check("gradients")
def outputs_come_back_as_returned(subject: Subject) -> None:
    """Parts.outputs is what the model returned, of all samples in their order, whichever part was penalised."""
    for returns, reg in (("pieces", _OF_SEVERAL[1]), ("object", _REGS[1]), ("path", _REGS[0])):
        given: dict[str, st.SearchStrategy[Any]] = {"form": st.just(Form(returns=returns))}
        given["loss"] = st.just("squared" if returns == "pieces" else "cross_entropy")
        drawn = cases(subject.harness, st.just(reg), st.just(TINY), batch=(_BATCH, _BATCH), **given)
        subject.given(drawn, cost=5)(partial(_came_back, subject))


def _came_back(subject: Subject, case: Case) -> None:
    ops, form, y, options = subject.ops, case.form, subject.labels(case), subject.options(case)
    z = expected_value(case, "outputs")
    wanted = form.returned(z.arrays["value"])
    presented = subject.presented(case)
    paths = {path: np.asarray(leaf) for path, leaf in flatten(wanted, lambda value: isinstance(value, np.ndarray))[0]}

    def function(arrays: Any) -> Any:
        model, x = presented(arrays)
        returned = subject.harness.calls.loss(model, x, y, case.reg, **options)[1].outputs
        leaves = dict(ops.flatten(returned)[0])
        if type(returned) is not type(wanted) or set(leaves) != set(paths):
            subject.disagree(
                case,
                f"the model returns {type(wanted).__name__} {sorted(paths)}, and parts.outputs is a "
                f"{type(returned).__name__} {sorted(leaves)}",
            )
        return ops.concat([ops.reshape(leaves[path], (-1,)) for path in paths], 0)

    result = subject.numbers(subject.harness.value(function, subject.arrays(case), subject.mode))
    flat = np.concatenate([leaf.ravel() for leaf in paths.values()])
    subject.compare(case, "parts.outputs", {"outputs": result}, replace(z, arrays={"outputs": flat}))
    if form.returns == "path":
        _are_differentiated(subject, case, function)


def _are_differentiated(subject: Subject, case: Case, function: Callable[[Any], Any]) -> None:
    """Compare the slope of the sum of all arrays in parts.outputs with that of the reference's outputs z.

    The arrays are z^2 + 1 and z, and one that is always 0.
    """

    def total(arrays: Any) -> Any:
        return subject.ops.sum(function(arrays), 0)

    _, slopes = subject.harness.value_and_gradients(total, subject.arrays(case), subject.mode)
    along = np.random.default_rng(0).normal(size=case.data.x.shape)
    x = case.data.x + 1j * COMPLEX_STEP * along
    _, parts = gradreg_numpy.loss(case.data.model(case.network), x, case.data.y, case.reg)
    wanted = float(np.imag(parts.outputs**2 + parts.outputs).sum() / COMPLEX_STEP)
    result = float((subject.numbers(slopes["x"]) * along).sum())
    allowed = _ROUNDINGS * UNIT_ROUNDOFF[subject.dtype] * subject.harness.tolerance * (1.0 + abs(wanted))
    subject.close(case, "the slope of the sum of parts.outputs along the input", result, wanted, allowed)
