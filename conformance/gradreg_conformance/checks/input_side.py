"""Penalties with directions in the space of the input, ||J_i v_i||: values and gradients, against the reference."""

from dataclasses import replace

from hypothesis import assume
from hypothesis import strategies as st

from gradreg_conformance import reference
from gradreg_conformance.check import check
from gradreg_conformance.regularizers import input_terms
from gradreg_conformance.strategies import cases
from gradreg_conformance.subject import Subject
from gradreg_core.outputs import OUTPUTS
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.projections import gaussian
from gradreg_core.spec import JacobianPenalty

_NETWORK = Network((3,), (Dense(2), Activation("tanh"), Dense(3)))


@check("gradients")
def input_side(subject: Subject) -> None:
    """side="input": the exact product J v, of every output, differentiated."""
    for output in OUTPUTS:
        reg = JacobianPenalty(1.0, projection=gaussian(), output=output, side="input")
        subject.agree(reg, _NETWORK, batch=2, gradients=True, cost=5)
    # Projections have checks of their own for the mean over several random rows, and so have norms.
    single = input_terms(3).filter(lambda reg: getattr(reg.projection, "k", 1) == 1)
    subject.agree(single.map(lambda reg: replace(reg, norm="l2")), _NETWORK, batch=2, gradients=True)


@check("gradients")
def input_side_by_differences(subject: Subject) -> None:
    """method="difference": (o(x + h v) - o(x)) / h of every output o, differentiated."""
    for output in OUTPUTS:
        for h in (1.0, 3.0):  # so large that the rounding of the outputs is not divided by a small number
            reg = JacobianPenalty(1.0, projection=gaussian(), output=output, side="input", method="difference", h=h)

            @subject.given(cases(subject.harness, st.just(reg), st.just(_NETWORK), batch=(2, 2)), cost=5)
            def _(case, h=h):  # type: ignore[no-untyped-def]
                # Nearly equal outputs lose digits in their difference, which no movement of the inputs shows: two
                # roundings of `largest` in a difference of a third of it, squared, are 12 units beside the usual 8.
                logits = reference.expected_value(case, "outputs").norm
                largest = 1.0 if case.reg.output == "probabilities" else max(1.0, logits)
                assume(h * float(reference.expected_value(case).norm) ** 0.5 > largest / 3)
                subject.agree_in_both(case, room=2.5)
