"""Values of named regularizers, of sums, and of what `loss` and `measure` give back, against the reference."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.regularizers import PRESETS
from gradreg_conformance.strategies import SMALL, cases
from gradreg_conformance.subject import Subject
from gradreg_core.presets import ConfidencePenalty, DataGrad, SpectReg
from gradreg_core.projections import exact, gaussian
from gradreg_core.spec import JacobianPenalty, Regularizer

_SIZES = st.sampled_from([(4, (1.0, 0.5, 2.0, 0.0)), (5, (0.5, 1.0, 0.0, 3.0, 1.0))])


def _called(subject: Subject, case: Case) -> tuple[Any, Any]:
    """(total, parts) of `loss`, called as a user calls it."""
    harness, arrays = subject.harness, subject.arrays(case)
    weights = {path: arrays[path] for path in case.network.weights()}

    def model(x: Any) -> Any:
        return harness.apply(case.network, arrays, x)

    options = subject.options(case)
    return harness.calls.loss(model, arrays["x"], subject.labels(case), case.reg, params=weights, **options)


def _compare(subject: Subject, case: Case, what: str, found: Any, of: str) -> None:
    numbers = np.asarray(subject.harness.numpy(found), np.float64)
    subject.compare(case, what, {"value": numbers}, reference.expected_value(case, of))


def _agree(subject: Subject, regs: st.SearchStrategy[Regularizer], batch: int = 3, cost: int = 2) -> None:
    @subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(batch, batch)), cost=cost)
    def _(case):  # type: ignore[no-untyped-def]
        subject.agree_in_value(case)


@check("values")
def presets(subject: Subject) -> None:
    """Every named regularizer has the conventions of its paper: one half or none, the factor m, the mean."""
    for regs in PRESETS.values():
        _agree(subject, regs, cost=5)


@check("values")
def parts_of_a_sum(subject: Subject) -> None:
    """Parts.penalty has the penalty of every term, in order; penalty is their sum."""
    terms = [DataGrad(1.0), SpectReg(1.0, seed=3), JacobianPenalty(1.0, projection=exact()), ConfidencePenalty(1.0)]
    sums = st.permutations(terms).map(lambda each: each[0] + each[1] + each[2])

    @subject.given(cases(subject.harness, sums, st.just(SMALL), batch=(3, 3)), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        subject.agree_in_value(case)
        _, parts = _called(subject, case)
        if len(parts.penalty) != len(case.reg.terms):
            subject.disagree(case, f"parts.penalty has {len(parts.penalty)} values for {len(case.reg.terms)} terms")
        for index, term in enumerate(case.reg.terms):
            one = replace(case, reg=term)
            _compare(subject, one, f"parts.penalty[{index}]", parts.penalty[index], "penalty")


@check("values")
def loss_and_outputs(subject: Subject) -> None:
    """What loss gives: the total, the weighted mean of the cross-entropy, and the outputs."""
    regs, weights = st.just(DataGrad(1.0)), st.sampled_from([(1.0, 0.5, 2.0), (0.0, 3.0, 1.0)])
    normalizers = st.sampled_from([None, 2.0])
    given = {"sample_weight": weights, "normalizer": normalizers}

    @subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(3, 3), **given), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        total, parts = _called(subject, case)
        _compare(subject, case, "parts.loss", parts.loss, "loss")
        _compare(subject, case, "parts.outputs", parts.outputs, "outputs")
        _compare(subject, case, "the total", total, "total")


@check("values")
def parts_of_the_batch(subject: Subject) -> None:
    """fraction=p: every term draws its own part of the batch; loss and outputs are of all samples, in their order."""
    alone = JacobianPenalty(1.0, projection=gaussian(), seed=1, fraction=0.4)
    other = JacobianPenalty(1.0, projection=gaussian(), seed=2, fraction=0.4)

    @subject.given(_SIZES, st.integers(0, 99), st.sampled_from([alone, alone + other]))
    def _(sized, seed, reg):  # type: ignore[no-untyped-def]
        batch, weights = sized
        case = Case(SMALL, reg, batch, seed, sample_weight=weights)
        subject.agree_in_value(case)
        _, parts = _called(subject, case)
        _compare(subject, case, "parts.loss", parts.loss, "loss")
        _compare(subject, case, "parts.outputs", parts.outputs, "outputs")
