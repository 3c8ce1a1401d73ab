"""Values of the penalty for every projection, against the reference; its options have checks of their own."""

from dataclasses import replace

from hypothesis import strategies as st

from gradreg_conformance.check import check
from gradreg_conformance.regularizers import PROJECTIONS, Drawn, seeds
from gradreg_conformance.strategies import SMALL, TINY, cases
from gradreg_conformance.subject import Subject
from gradreg_core.projections import direction
from gradreg_core.spec import JacobianPenalty


def _register(name: str, drawn: Drawn) -> None:
    """Register the check of one projection."""

    def function(subject: Subject) -> None:
        for projections in drawn.own or (drawn.strategy(4, 1),):
            subject.agree(st.builds(JacobianPenalty, st.just(1.0), projection=projections, seed=seeds))

    function.__name__, function.__doc__ = f"projection_{name}", drawn.claim
    check("values")(function)


for _name, _drawn in PROJECTIONS.items():
    if _drawn.claim:
        _register(_name, _drawn)


@check("values")
def directions_of_the_call(subject: Subject) -> None:
    """directions= of shape (m,), (B, m) and (k, B, m)."""
    regs = st.just(JacobianPenalty(1.0, projection=direction()))
    for shape in ("shared", "sample", "rows"):
        given = st.just(shape)

        @subject.given(cases(subject.harness, regs, st.just(SMALL), batch=(3, 3), directions=given), cost=5)
        def _(case):  # type: ignore[no-untyped-def]
            subject.agree_in_value(case)
            subject.agree_in_gradients(replace(case, network=TINY))
