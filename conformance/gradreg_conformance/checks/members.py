"""Members of the family with more to them than a projection: target Jacobians, pairs of layers, differences."""

from dataclasses import replace
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from gradreg_conformance import reference
from gradreg_conformance.check import NotApplicable, check
from gradreg_conformance.strategies import TINY, cases
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import R1, DataGrad, GradientPenalty, LayerwiseReg, SobolevReg
from gradreg_core.projections import exact, ones

_LAYERS = Network((2,), (Dense(3), Activation("tanh"), Dense(3), Activation("sigmoid"), Dense(2)))


@check("gradients")
def target_jacobians(subject: Subject) -> None:
    """SobolevReg: the rows of the target, an array's or a teacher's, are subtracted, and are constants."""
    drawn, whole = SobolevReg(1.0), SobolevReg(1.0, projection=exact(), output="probabilities")
    for target in ("outputs", "teacher"):
        for reg, batch in ((drawn, 2), (whole, 2), (replace(drawn, fraction=0.5), 4)):
            subject.agree(reg, TINY, batch=batch, gradients=True, cost=5, target=st.just(target))
    loss = SobolevReg(1.0, projection=exact(), output="loss")
    subject.agree(loss, TINY, batch=2, gradients=True, cost=5, target=st.just("loss"))


@check("gradients")
def between_layers(subject: Subject) -> None:
    """LayerwiseReg: the Jacobian of each named layer with respect to the one before, of the first and of the last."""
    harness = subject.harness
    if "named_activations" not in subject.capabilities:
        raise NotApplicable("the description declares no named_activations")
    # The reference names a layer by its index.
    flags = st.booleans()
    regs = st.builds(LayerwiseReg, st.just(1.0), layers=st.just(("1", "3")), from_input=flags, to_outputs=flags)

    @subject.given(cases(harness, regs, st.just(_LAYERS), batch=(2, 2)), cost=2)
    def _(case):  # type: ignore[no-untyped-def]
        def function(arrays: Any) -> Any:
            model, names = harness.named_model(_LAYERS, arrays)
            reg = replace(case.reg, layers=tuple(names[int(name)] for name in case.reg.layers))
            return harness.calls.penalty(model, arrays["x"], None, reg)

        value, slopes = harness.value_and_gradients(function, subject.arrays(case), subject.mode)
        subject.compare(case, "the penalty", {"value": subject.numbers(value)}, reference.expected_value(case))
        gradients = {name: subject.numbers(slopes[name]) for name in (*_LAYERS.weights(), "x")}
        subject.compare(case, "the gradients of the penalty", gradients, reference.expected_gradient(case))


@check("gradients")
def along_the_gradient(subject: Subject) -> None:
    """method="difference" on the output side: the slope along the gradient's direction, which is a constant."""
    chosen: dict[str, Any] = {"method": "difference", "h": 1.0}
    for reg in (
        DataGrad(1.0, **chosen),
        R1(1.0, projection=ones(), **chosen),
        GradientPenalty(1.0, projection=ones(), **chosen),
    ):

        @subject.given(cases(subject.harness, st.just(reg), st.just(TINY), batch=(2, 2)), cost=5)
        def _(case):  # type: ignore[no-untyped-def]
            # Nearly equal outputs lose digits in their difference, which no movement of the inputs shows.
            assume(float(reference.expected_value(replace(case, reg=DataGrad(1.0))).norm) > 0.03)
            subject.agree_in_both(case)
