"""Values of the penalty for every layout of outputs and labels, against the reference."""

from typing import Any

from hypothesis import strategies as st

from gradreg_conformance.check import check
from gradreg_conformance.strategies import SMALL
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import DataGrad, OneHot
from gradreg_core.projections import exact, fisher, gaussian, top_k
from gradreg_core.spec import JacobianPenalty, Regularizer

_CRITIC = Network((3,), (Dense(3), Activation("tanh"), Dense(1)))
_POSITIONS = Network((2, 3), (Dense(3), Activation("tanh"), Dense(3)))


def _agree(
    subject: Subject,
    reg: Regularizer,
    network: Network = SMALL,
    *,
    gradients: bool = False,
    cost: int = 2,
    **options: Any,
) -> None:
    given: dict[str, Any] = {name: st.just(value) for name, value in options.items()}
    subject.agree(reg, network, gradients=gradients, cost=cost, **given)


@check("values")
def labels_as_distributions(subject: Subject) -> None:
    """Labels may be probabilities, of the outputs' own shape."""
    _agree(subject, DataGrad(1.0), labels="distribution")
    for axis in (2, 1):
        _agree(subject, DataGrad(1.0), _POSITIONS, cost=5, class_axis=axis, labels="distribution")


@check("values")
def a_single_logit(subject: Subject) -> None:
    """One logit is a binary classifier: f is its logistic function, in every output and projection."""
    outputs = ("loss", "probabilities", "log_probabilities")
    regs: list[Regularizer] = [JacobianPenalty(1.0, projection=exact(), output=output) for output in outputs]
    regs += [JacobianPenalty(1.0, projection=fisher()), OneHot(1.0)]
    for reg in regs:
        _agree(subject, reg, _CRITIC, cost=5)


@check("values")
def classes_on_any_axis(subject: Subject) -> None:
    """class_axis= says which axis holds the classes: softmax and labels are per position, losses a mean."""
    regs: list[Regularizer] = [DataGrad(1.0), JacobianPenalty(1.0, projection=gaussian(), output="probabilities")]
    regs += [JacobianPenalty(1.0, projection=projection) for projection in (fisher(), top_k(1))]
    for reg in regs:
        for axis in (-1, 1):
            _agree(subject, reg, _POSITIONS, cost=5, gradients=reg is regs[-1], class_axis=axis)
