"""The norms that `measure` gives, against the reference, and the report of `check` on a right model."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.forms import PLAIN, Form
from gradreg_conformance.strategies import SINGLE_LOGIT, SMALL, cases
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_core.projections import direction, orthonormal, top_singular
from gradreg_core.spec import JacobianPenalty, Regularizer

_DENSE = Network((3, 2), (Dense(2), Activation("tanh"), Dense(4)))
_FROBENIUS = JacobianPenalty(1.0, projection=orthonormal(2, unbiased=True), squared=False)
_SPECTRAL = JacobianPenalty(1.0, projection=top_singular(30), squared=False)
"""The terms that measure estimates with projections=2."""
_DIFFERENCES = 5e-3
"""The error that `check` itself allows for finite differences in float32; see :mod:`gradreg_core.preflight`."""
_POWER_ITERATION = 0.9
"""The share of the spectral norm that power iteration reaches: for m = 4 it needs ten steps, however close they are."""


def _given(subject: Subject, **options: Any) -> Any:
    regs = st.just(DataGrad(1.0))
    return subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(3, 3), **options), cost=2)


def _only(expected: reference.Expected, name: str) -> reference.Expected:
    return reference.Expected({name: expected.arrays[name]}, expected.condition)


def _measured(subject: Subject, case: Case, **options: Any) -> dict[str, np.ndarray]:
    model, x = subject.presented(case)(subject.arrays(case))
    measures = subject.harness.calls.measure(model, x, subject.labels(case), batch_norm="allow", **options)
    return {name: subject.numbers(norms) for name, norms in measures._asdict().items() if norms is not None}


@check("values")
def measure_exact(subject: Subject) -> None:
    """Measure returns the Frobenius and the spectral norm of each sample's Jacobian, unsquared."""

    @_given(subject, labels=st.just("none"))
    def _(case):  # type: ignore[no-untyped-def]
        wanted = reference.expected_measures(case)
        measures = _measured(subject, case)
        if "loss_gradient" in measures:
            subject.disagree(case, "measure without labels gives a norm of the loss's gradient")
        subject.compare(case, "the norms of measure", measures, wanted)


@check("values")
def measure_the_loss(subject: Subject) -> None:
    """With labels, measure returns the norm of the gradient of each sample's loss, unsquared."""

    @_given(subject)
    def _(case):  # type: ignore[no-untyped-def]
        wanted = _only(reference.expected_measures(case), "loss_gradient")
        subject.compare(case, "the norm of the loss's gradient by measure", _measured(subject, case), wanted)


@check("values")
def measure_by_projections(subject: Subject) -> None:
    """With projections=m, measure is exact in the Frobenius norm, and below and near the spectral norm.

    No spherical projection exceeds the spectral norm either.
    """

    @_given(subject, labels=st.just("none"))
    def _(case):  # type: ignore[no-untyped-def]
        wanted = reference.expected_measures(case)
        measures = _measured(subject, case, projections=case.network.output_shape[0])
        subject.compare(case, "the Frobenius norm of measure", measures, _only(wanted, "frobenius"))
        share = measures["spectral"] / wanted.arrays["spectral"]
        if not (share.min() >= _POWER_ITERATION and share.max() <= 1 + wanted.allowed(case.dtype) / wanted.norm):
            subject.disagree(case, f"the spectral norm of measure is {share} times the true one")
        spherical = float(subject.value(replace(case, reg=SpectReg(1.0, spherical=True))))
        largest = float((wanted.arrays["spectral"] ** 2).mean())
        if not spherical <= largest:
            subject.disagree(case, f"a spherical projection has {spherical}, above the squared spectral norm {largest}")


@check("values", general=True)
def measure_with_every_option(subject: Subject) -> None:
    """Measure heeds the class axis, weights of positions, ignored labels, chunks, a loss of the caller's, the draws.

    It heeds outputs= and wrt= too.
    """
    dense: dict[str, Any] = {"class_axis": 1, "chunk_size": 2}
    nested = Form("arguments", ((), ()), wrt=(1,), returns="path") if subject.harness.any_callable else PLAIN
    rows = ((0.5, 0.0, 2.0, 1.0), (1.0, 1.0, 0.25, 0.0), (0.0, 3.0, 0.0, 0.0))
    for options in (
        {**dense, "position_weight": rows},
        {**dense, "ignore_index": -100},
        {**dense, "labels": "distribution"},
        {"class_axis": -1, "loss": "squared"},
        {"network": SINGLE_LOGIT, "form": nested},
    ):
        case = Case(**{"network": _DENSE, "reg": DataGrad(1.0), "batch": 3, "dtype": subject.dtype, **options})
        subject.measured.examples += 1
        kept = ("loss_fn", "position_weight", "ignore_index", "class_axis", "chunk_size", "outputs")
        chosen = {name: value for name, value in subject.options(case).items() if name in kept}
        result = _measured(subject, case, **chosen)
        subject.compare(case, "the norms of measure", result, reference.expected_measures(case))
    if subject.backend is None:
        return  # calls of its own may estimate in another way
    case = Case(SMALL, DataGrad(1.0), 3, dtype=subject.dtype, step=5, draw_seed=9, ids=(7, 2**20, 3), labels="none")
    for names, count in (({"sample_ids", "seed"}, 2), ({"step"}, 1)):
        options = {name: value for name, value in subject.options(case).items() if name in names}
        alone = replace(case, ids=None, draw_seed=None) if "step" in names else replace(case, step=0)
        subject.measured.examples += 1
        frobenius = replace(_FROBENIUS, projection=orthonormal(count, unbiased=True))
        wanted = reference.expected_estimates(alone, frobenius, _SPECTRAL)
        result = _measured(subject, case, projections=count, **options)
        subject.compare(alone, f"measure with projections={count} and {', '.join(sorted(names))}", result, wanted)


@check("values")
def measure_of_no_slope(subject: Subject) -> None:
    """The norms of a Jacobian that is zero are 0, where a root of rounding below 0 would give NaN."""
    case = Case(SMALL, DataGrad(1.0), 3, dtype=subject.dtype)
    arrays = subject.arrays(case)
    arrays["0.weight"] = subject.array(np.zeros(SMALL.weights()["0.weight"]), subject.dtype)
    for projections in (None, 2):
        measures = subject.harness.calls.measure(
            subject.model(SMALL, arrays), arrays["x"], subject.labels(case), projections=projections
        )
        for name, norms in measures._asdict().items():
            if not (subject.numbers(norms) == 0).all():
                subject.disagree(case, f"measure of outputs that are constant: {name} is {subject.numbers(norms)}")


@check("values")
def measures_are_constants(subject: Subject) -> None:
    """No gradient flows through the norms of measure."""
    ops = subject.ops
    case = Case(SMALL, DataGrad(1.0), 3, dtype=subject.dtype)
    y = subject.labels(case)

    def function(arrays: Any) -> Any:
        measures = subject.harness.calls.measure(subject.model(SMALL, arrays), arrays["x"], y)
        return ops.sum(measures.frobenius + measures.spectral + measures.loss_gradient, 0)

    _, slopes = subject.harness.value_and_gradients(function, subject.arrays(case), subject.mode)
    moved = [name for name, slope in slopes.items() if np.any(subject.numbers(slope))]
    if moved:
        subject.disagree(case, f"the norms of measure have gradients with respect to {', '.join(moved)}")


@check("values")
def check_reports_on_a_model(subject: Subject) -> None:
    """Check returns a report that prints and has a verdict; on a smooth model finite differences agree.

    A sample of weight 0 does not count, although the model has a wrong derivative there, and a loss of the caller's
    takes labels of its own.
    """
    case = Case(SMALL, SpectReg(1.0), batch=3, dtype=subject.dtype, loss="squared")
    arrays = subject.arrays(case)
    trained = {path: subject.harness.parameter(arrays[path]) for path in SMALL.weights()}
    own = subject.backend is None  # calls of its own may check in another way
    model, x, options = subject.model(SMALL, trained), arrays["x"], {"loss_fn": subject.options(case)["loss_fn"]}
    reg: Regularizer = case.reg
    if not own:
        ops, bare, far = subject.ops, model, np.array([[9.0], [0.0], [0.0]])
        x = subject.array(case.data.x + far, subject.dtype)
        options["sample_weight"] = subject.array([0.0, 1.0, 1.0], subject.dtype)

        def model(x: Any) -> Any:
            """Right for all but large inputs, where a factor is a constant to derivatives."""
            large = ops.astype(x[:, :1] > 5.0, subject.dtype)
            z = bare(x * (1.0 - 0.9 * large))
            return {"scores": z * ops.stop_gradient(1.0 + large * ops.sum(z * z, 1, keepdims=True))}

        reg = JacobianPenalty(lambda step: 1.0 if step == 3 else math.nan, projection=direction())
        options |= {"outputs": "scores", "step": 3, "directions": subject.array([1.0, 2.0, 0.0, -1.0], subject.dtype)}

    report = subject.harness.calls.check(model, x, subject.labels(case), reg, **options)
    disagreement = getattr(report, "disagreement", None)
    told = isinstance(getattr(report, "ok", None), bool) and str(report).startswith("gradreg check")
    differs = not own if disagreement is None else not disagreement < _DIFFERENCES
    if not told or differs or not report.ok:
        subject.disagree(case, f"check of a smooth model gives {report}, with a disagreement of {disagreement}")
