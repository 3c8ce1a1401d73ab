"""Values of named regularizers, of sums, and of what `loss` and `measure` give back, against the reference."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.strategies import SMALL, cases
from gradreg_conformance.subject import Subject
from gradreg_core.norms import hinge, target
from gradreg_core.presets import (
    R1,
    ConfidencePenalty,
    DataGrad,
    FrobReg,
    GradientPenalty,
    HoffmanReg,
    InputFisher,
    JacReg,
    OneHot,
    RandomOneHot,
    SpectralNormReg,
    SpectReg,
)
from gradreg_core.projections import (
    exact,
    fisher,
    gaussian,
    onehot,
    ones,
    rademacher,
    random_onehot,
    sphere,
    top_singular,
)
from gradreg_core.spec import JacobianPenalty, Regularizer

GENERAL: dict[Regularizer, Regularizer] = {
    DataGrad(1.0): JacobianPenalty(1.0, projection=exact(), output="loss"),
    SpectReg(1.0): JacobianPenalty(1.0, projection=gaussian()),
    SpectReg(1.0, projections=3): JacobianPenalty(1.0, projection=gaussian(3)),
    SpectReg(1.0, spherical=True, projections=2): JacobianPenalty(1.0, projection=sphere(2)),
    FrobReg(1.0): JacobianPenalty(1.0, projection=exact()),
    JacReg(1.0): JacobianPenalty(1.0, projection=exact(), output="probabilities"),
    HoffmanReg(1.0): JacobianPenalty(1.0, projection=sphere(unbiased=True), scale=0.5),
    HoffmanReg(1.0, projections=None): JacobianPenalty(1.0, projection=exact(), scale=0.5),
    GradientPenalty(1.0): JacobianPenalty(1.0, projection=exact(), squared=False, phi=target(1.0)),
    GradientPenalty(1.0, target=2.0, one_sided=True): JacobianPenalty(
        1.0, projection=exact(), squared=False, phi=hinge(2.0)
    ),
    R1(1.0): JacobianPenalty(1.0, projection=exact(), scale=0.5),
    R1(1.0, projection=ones()): JacobianPenalty(1.0, projection=ones(), scale=0.5),
    R1(1.0, projection=ones(), method="difference", h=2.0): JacobianPenalty(
        1.0, projection=ones(), scale=0.5, method="difference", h=2.0
    ),
    GradientPenalty(1.0, projection=ones()): JacobianPenalty(1.0, projection=ones(), squared=False, phi=target(1.0)),
    DataGrad(1.0, norm="l1"): JacobianPenalty(1.0, projection=exact(), output="loss", norm="l1"),
    SpectReg(1.0, norm="linf", squared=False): JacobianPenalty(1.0, projection=gaussian(), norm="linf", squared=False),
    OneHot(1.0): JacobianPenalty(1.0, projection=onehot()),
    RandomOneHot(1.0): JacobianPenalty(1.0, projection=random_onehot()),
    InputFisher(1.0): JacobianPenalty(1.0, projection=fisher()),
    SpectralNormReg(1.0, iterations=3): JacobianPenalty(1.0, projection=top_singular(3)),
}
_SIZES = st.sampled_from([(5, (0.5, 1.0, 0.0, 3.0, 1.0)), (6, (1.0, 0.5, 2.0, 0.0, 1.0, 1.0))])
"""Batches of other lengths than the network's weights, which could belong to the samples otherwise."""


def _called(subject: Subject, case: Case) -> tuple[Any, Any]:
    """(total, parts) of `loss`, called as a user calls it."""
    harness, arrays = subject.harness, subject.arrays(case)
    weights = {path: arrays[path] for path in case.network.weights()}
    model = subject.model(case.network, arrays)
    options = subject.options(case)
    return harness.calls.loss(model, arrays["x"], subject.labels(case), case.reg, params=weights, **options)


def _compare(subject: Subject, case: Case, label: str, result: Any, of: str) -> None:
    subject.compare(case, label, {"value": subject.numbers(result)}, reference.expected_value(case, of))


@check("values")
def presets(subject: Subject) -> None:
    """Every named regularizer is its general form with its paper's conventions: one half or none, the factor m."""
    for preset, general in GENERAL.items():

        @subject.given(cases(subject.harness, st.just(preset), st.just(SMALL), batch=(3, 3)), cost=5)
        def _(case, general=general):  # type: ignore[no-untyped-def]
            allowed = reference.expected_value(case).allowed(case.dtype, subject.harness.tolerance)
            wanted = float(subject.value(replace(case, reg=general)))
            subject.close(
                case, f"the value of {case.reg!r}, which is {general!r},", subject.value(case), wanted, allowed
            )


@check("values")
def parts_of_a_sum(subject: Subject) -> None:
    """Parts.penalty has the penalty of every term, in order; penalty is their sum."""
    terms = [
        DataGrad(1.0),
        SpectReg(1.0, seed=3),
        JacobianPenalty(1.0, projection=rademacher()),
        ConfidencePenalty(1.0),
    ]
    sums = st.permutations(terms).map(lambda order: order[0] + order[1] + order[2])

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
    """Loss returns the total, the weighted mean of the cross-entropy, and the outputs."""
    regs, weights = st.just(DataGrad(1.0)), st.sampled_from([(1.0, 0.5, 2.0), (0.0, 3.0, 1.0)])

    @subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(3, 3), sample_weight=weights), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        total, parts = _called(subject, case)
        _compare(subject, case, "parts.loss", parts.loss, "loss")
        _compare(subject, case, "parts.outputs", parts.outputs, "outputs")
        _compare(subject, case, "the total", total, "total")


@check("values")
def parts_of_the_batch(subject: Subject) -> None:
    """fraction=p: every term draws its own part of the batch; the outputs are of all samples, in their order."""
    alone = JacobianPenalty(1.0, projection=gaussian(), seed=1, fraction=0.4)
    other = JacobianPenalty(1.0, projection=gaussian(), seed=2, fraction=0.4)

    for reg in (alone, alone + other):

        @subject.given(_SIZES, st.integers(0, 99), cost=5)
        def _(sized, seed, reg=reg):  # type: ignore[no-untyped-def]
            batch, weights = sized
            case = Case(SMALL, reg, batch, seed, sample_weight=weights, dtype=subject.dtype)
            subject.agree_in_value(case)
            _, parts = _called(subject, case)
            _compare(subject, case, "parts.outputs", parts.outputs, "outputs")
