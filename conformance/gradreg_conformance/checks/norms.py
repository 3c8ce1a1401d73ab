"""Values of the penalty for every norm, shape and scale, against the reference."""

from typing import Any

from hypothesis import strategies as st

from gradreg_conformance.check import check
from gradreg_conformance.regularizers import seeds
from gradreg_conformance.strategies import SMALL, cases
from gradreg_conformance.subject import Subject
from gradreg_core.networks import Activation, Dense, Flatten, Network
from gradreg_core.norms import hinge, target
from gradreg_core.projections import gaussian
from gradreg_core.spec import JacobianPenalty


def _agree(subject: Subject, network: Network = SMALL, **chosen: Any) -> None:
    regs = st.builds(JacobianPenalty, st.just(1.0), projection=st.just(gaussian(2)), seed=seeds, **chosen)

    @subject.given(cases(subject.harness, regs, st.just(network), batch=(3, 3)), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        subject.agree_in_value(case)


@check("values")
def norm_l2(subject: Subject) -> None:
    """The L2 norm itself, not squared."""
    _agree(subject, squared=st.just(False))


@check("values")
def norm_l1(subject: Subject) -> None:
    """The sum of the absolute values over all components of all rows, squared or not."""
    _agree(subject, norm=st.just("l1"), squared=st.booleans())


@check("values")
def norm_linf(subject: Subject) -> None:
    """The largest absolute value over all components of all rows, squared or not."""
    _agree(subject, norm=st.just("linf"), squared=st.booleans())


@check("values")
def shapes(subject: Subject) -> None:
    """target(t) charges (n - t)^2, hinge(t) what is above t, of the norm and of its square."""
    for shape in (target(1.5), hinge(0.5), hinge(100.0)):
        _agree(subject, shape=st.just(shape), squared=st.booleans())


@check("values")
def scale(subject: Subject) -> None:
    """The constant of a convention is multiplied in."""
    _agree(subject, scale=st.sampled_from([0.5, 3.0]))


@check("values")
def inputs_of_any_rank(subject: Subject) -> None:
    """The norm is over all components of a sample, however many axes its input has."""
    for shape in ((2, 2), (1, 2, 2), (2, 1, 2, 1), (1, 2, 1, 1, 2)):
        _agree(subject, Network(shape, (Flatten(), Dense(3), Activation("tanh"), Dense(2))))
