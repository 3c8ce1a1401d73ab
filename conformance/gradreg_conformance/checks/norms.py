"""Values of the penalty for every norm, phi and scale, against the reference."""

from typing import Any

from hypothesis import strategies as st

from gradreg_conformance.check import check
from gradreg_conformance.strategies import SMALL
from gradreg_conformance.subject import Subject
from gradreg_core.norms import hinge, target
from gradreg_core.portable.networks import Activation, Dense, Flatten, Network
from gradreg_core.projections import direction, gaussian
from gradreg_core.spec import JacobianPenalty

_ROWS = direction(((0.5, -1.0, 0.25, 2.0), (1.0, 0.5, -2.0, 0.0)))


def _agree(subject: Subject, network: Network = SMALL, cost: int = 2, **chosen: Any) -> None:
    projection = st.just(_ROWS if network is SMALL else gaussian())
    regs = st.builds(JacobianPenalty, st.just(1.0), projection=projection, **chosen)
    subject.agree(regs, network, cost=cost)


@check("values")
def norm_l1(subject: Subject) -> None:
    """The sum of the absolute values over all components of all rows, squared or not."""
    for squared in (False, True):
        _agree(subject, norm=st.just("l1"), squared=st.just(squared))


@check("values")
def norm_linf(subject: Subject) -> None:
    """The largest absolute value over all components of all rows, squared or not."""
    for squared in (False, True):
        _agree(subject, norm=st.just("linf"), squared=st.just(squared))


@check("values")
def phis(subject: Subject) -> None:
    """target(t) charges (n - t)^2, hinge(t) what is above t, of the norm and of its square."""
    for phi in (target(1.5), hinge(0.5), hinge(100.0)):
        for squared in (False, True):
            _agree(subject, cost=5, phi=st.just(phi), squared=st.just(squared))


@check("values")
def scale(subject: Subject) -> None:
    """The constant of a convention is multiplied in."""
    _agree(subject, scale=st.sampled_from([0.5, 3.0]))


@check("values")
def inputs_of_any_rank(subject: Subject) -> None:
    """The norm is over all components of a sample, however many axes its input has."""
    for shape in ((2, 2), (1, 2, 2), (2, 1, 2, 1), (1, 2, 1, 1, 2)):
        _agree(subject, Network(shape, (Flatten(), Dense(3), Activation("tanh"), Dense(2))))
