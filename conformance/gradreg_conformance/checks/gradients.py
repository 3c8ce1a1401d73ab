"""Gradients of the penalty with respect to weights and input, against the reference."""

from hypothesis import strategies as st

from gradreg_conformance.check import check
from gradreg_conformance.strategies import cases
from gradreg_conformance.subject import Subject
from gradreg_core.presets import DataGrad, SpectReg


@check("gradients")
def gradients_equal_the_reference(subject: Subject) -> None:
    """The penalty's gradients with respect to every weight and to the input equal the reference's."""

    @subject.given(cases(subject.harness, st.sampled_from([DataGrad(1.5), SpectReg(0.3, seed=1)])))
    def _(case):  # type: ignore[no-untyped-def]
        subject.agree_in_gradients(case)
