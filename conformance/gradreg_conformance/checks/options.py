"""Every option of a call and of a term that is not the projection, against the reference.

The gradients are compared too: an option that detaches the penalty would train nothing.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.reference import expected_value
from gradreg_conformance.regularizers import Ramp, seeds
from gradreg_conformance.strategies import SMALL, TINY, cases
from gradreg_conformance.subject import Subject
from gradreg_core.presets import ConfidencePenalty, SpectReg
from gradreg_core.projections import gaussian, sphere, top_k
from gradreg_core.spec import JacobianPenalty


def _fixed(weight: Any, **options: Any) -> JacobianPenalty:
    """A term that neither draws nor looks at labels."""
    return JacobianPenalty(weight, projection=top_k(1), **options)


_RANDOM = st.builds(JacobianPenalty, st.just(1.0), projection=st.just(gaussian()), seed=seeds)
_FIXED = st.just(_fixed(1.0))


def _agree(
    subject: Subject,
    regs: st.SearchStrategy[JacobianPenalty],
    change: Callable[[Case], list[Case]] = lambda case: [case],
    cost: int = 2,
    gradients: bool = True,
    **options: st.SearchStrategy[object],
) -> None:
    @subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(3, 3), **options), cost=cost)
    def _(case):  # type: ignore[no-untyped-def]
        for variant in change(case):
            subject.agree_in_value(variant)
            if gradients:
                subject.agree_in_gradients(replace(variant, network=TINY))


@check("values")
def weight(subject: Subject) -> None:
    """The penalty is linear in its weight, which may be 0."""
    _agree(subject, st.builds(_fixed, st.sampled_from([0.25, 50.0])))
    _agree(subject, st.just(_fixed(0.0)), cost=5)
    if not subject.harness.any_callable or subject.backend is None:
        return
    ops, case = subject.ops, Case(TINY, ConfidencePenalty(1.0), dtype=subject.dtype)
    arrays = subject.arrays(case)
    bare = subject.model(TINY, arrays)

    def steep(x: Any) -> Any:
        """The network, with a derivative that is NaN: the root's is infinite at 0."""
        return bare(x) + 0.0 * ops.sum(ops.sqrt(0.0 * x), 1, keepdims=True)

    result = subject.harness.calls.penalty(steep, arrays["x"], None, case.reg + SpectReg(0.0))
    subject.compare(case, "a sum with a term of weight 0", {"value": subject.numbers(result)}, expected_value(case))


@check("values")
def schedule(subject: Subject) -> None:
    """A schedule gives the weight at the step of the call."""
    _agree(subject, st.just(_fixed(Ramp(1.0, 0.5))), step=st.integers(1, 9))


@check("values")
def step(subject: Subject) -> None:
    """Each step has draws of its own."""
    _agree(subject, _RANDOM, step=st.integers(1, 2**31 - 1))


@check("values")
def seed(subject: Subject) -> None:
    """All 64 bits of the seed count."""
    regs = st.builds(JacobianPenalty, st.just(1.0), projection=st.just(gaussian()), seed=st.integers(2**32, 2**64 - 1))
    _agree(subject, regs)


@check("values")
def seed_of_the_call(subject: Subject) -> None:
    """seed= of the call stands in place of the terms' own seeds, for directions and for the part of the batch."""
    for reg in (JacobianPenalty(1.0, projection=gaussian(), seed=1), _fixed(1.0, fraction=0.5, seed=1)):
        whole = reg.fraction == 1  # the gradients of parts have a check of their own
        _agree(subject, st.just(reg), cost=4, gradients=whole, draw_seed=st.integers(0, 2**64 - 1))


@check("values")
def sample_ids(subject: Subject) -> None:
    """The draw of a sample depends on its global number, not on its place in the batch."""
    ranges = [(5, 2**16 - 1), (2**16, 2**24 - 1), (2**24, 2**31 - 1)]
    numbers = st.tuples(*(st.integers(*ends) for ends in ranges)).flatmap(st.permutations).map(tuple)
    _agree(subject, _RANDOM, ids=numbers)


@check("values")
def draw_per_batch(subject: Subject) -> None:
    """draw="per_batch": all samples share one draw, which does not depend on their numbers."""
    for numbers in (None, (7, 8, 9)):
        _agree(subject, _RANDOM.map(lambda reg: replace(reg, draw="per_batch")), ids=st.just(numbers))


@check("values")
def sample_weight(subject: Subject) -> None:
    """Means are weighted, and 0 where all weights are 0."""
    weights = st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.5, 3.0]), st.sampled_from([0.25, 2.0]))
    zeros = (0.0, 0.0, 0.0)
    _agree(subject, _FIXED, lambda case: [case, replace(case, sample_weight=zeros)], sample_weight=weights)


@check("values")
def normalizer(subject: Subject) -> None:
    """normalizer= is divided by in place of the sum of the sample weights."""
    for weights in (None, (1.0, 0.5, 2.0)):
        _agree(subject, _FIXED, normalizer=st.sampled_from([0.5, 7.5]), sample_weight=st.just(weights))


@check("values")
def chunk_size(subject: Subject) -> None:
    """chunk_size= changes the memory and not the value."""
    reg = JacobianPenalty(1.0, projection=sphere(5), squared=False)
    regs = [reg, replace(reg, norm="linf")]

    def sizes(case: Case) -> list[Case]:
        return [replace(case, reg=one, chunk_size=size) for one in regs for size in (2, 3, 9)]

    _agree(subject, st.just(reg), sizes, cost=5)


@check("values")
def every(subject: Subject) -> None:
    """every=n charges n times as much at steps divisible by n, and nothing at others."""

    def steps(case: Case) -> list[Case]:
        return [replace(case, step=step) for step in (0, 1, 2, 3, 4, 6)]

    _agree(subject, st.sampled_from([2, 3]).map(lambda n: _fixed(1.0, every=n)), steps)
