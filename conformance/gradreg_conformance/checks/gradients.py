"""Gradients of the penalty with respect to every weight and to the input, for every regularizer, against the reference.

Where its documentation says so, what a projection looks at is a constant; everything else is differentiated.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance.cases import Case
from gradreg_conformance.check import NotApplicable, check
from gradreg_conformance.reference import Expected
from gradreg_conformance.regularizers import general_terms, preset_terms, seeds
from gradreg_conformance.strategies import TINY, cases, classifiers
from gradreg_conformance.subject import Subject
from gradreg_core.norms import NORMS, hinge, identity, target
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import ConfidencePenalty, DataGrad, InputFisher, WeightDecay
from gradreg_core.projections import gaussian, rademacher, top_singular
from gradreg_core.spec import JacobianPenalty

_RANDOM = JacobianPenalty(1.0, projection=gaussian())


def _agree(subject: Subject, regs: Any, of: str = "penalty", *, network: Network = TINY, **options: Any) -> None:
    """Compare values and gradients of two samples; see :meth:`Subject.agree`."""
    subject.agree(regs, network, of=of, gradients=True, **{"batch": 2, **options})


@check("gradients")
def gradients_of_the_loss(subject: Subject) -> None:
    """Output "loss": f - y is differentiated too, not only J."""
    _agree(subject, DataGrad(1.0))


@check("gradients")
def gradients_of_the_probabilities(subject: Subject) -> None:
    """Output "probabilities": diag(f) - f f^T is differentiated too."""
    _agree(subject, replace(_RANDOM, output="probabilities"))


@check("gradients")
def gradients_of_the_log_probabilities(subject: Subject) -> None:
    """Output "log_probabilities": the f in I - 1 f^T is differentiated too."""
    _agree(subject, replace(_RANDOM, output="log_probabilities"))


@check("gradients")
def gradients_of_a_loss_of_the_caller(subject: Subject) -> None:
    """loss_fn= takes the place of the cross-entropy, in the penalty and in its gradients."""
    _agree(subject, DataGrad(1.0), loss=st.just("squared"))


@check("gradients")
def gradients_with_fisher(subject: Subject) -> None:
    """fisher(): f is differentiated, the draw of the class is a constant."""
    _agree(subject, st.builds(InputFisher, st.just(1.0), seed=seeds))


@check("gradients")
def gradients_with_top_singular(subject: Subject) -> None:
    """top_singular(n): the vector is a constant."""
    _agree(subject, JacobianPenalty(1.0, projection=top_singular(2)))


@check("gradients")
def gradients_of_norms_and_phis(subject: Subject) -> None:
    """Every norm and phi is differentiated."""
    for norm in NORMS:
        reg = JacobianPenalty(1.0, projection=gaussian(), norm=norm, squared=False)
        for phi in (identity(), target(1.5), hinge(0.01)):
            _agree(subject, replace(reg, phi=phi), cost=5)


@check("gradients")
def gradients_of_sums(subject: Subject) -> None:
    """No term's gradient is dropped from a sum."""
    _agree(subject, _RANDOM + JacobianPenalty(1.0, projection=rademacher()))


@check("gradients")
def gradients_of_the_total(subject: Subject) -> None:
    """The total has the gradients of the loss and of the penalty."""
    _agree(subject, _RANDOM, "total")


@check("gradients")
def gradients_with_fraction(subject: Subject) -> None:
    """fraction=p: the gradients reach the samples that were drawn, in their places, and no others."""
    _agree(subject, replace(_RANDOM, fraction=0.5), batch=4)


@check("gradients")
def confidence_penalty(subject: Subject) -> None:
    """ConfidencePenalty: mean_i sum_k f log f and its gradients, of several logits and of one."""
    for network in (TINY, Network((2,), (Dense(2), Activation("tanh"), Dense(1)))):
        _agree(subject, ConfidencePenalty(1.0), network=network, cost=5)


@check("gradients")
def weight_decay(subject: Subject) -> None:
    """WeightDecay: 1/2 ||w||^2 of the arrays with two or more axes and its gradients, those of the others zero."""
    _agree(subject, WeightDecay(1.0), cost=5)
    if not subject.harness.any_callable:
        return
    rng = np.random.default_rng(0)
    given = {"kernel": rng.normal(size=(2, 1, 2, 3)), "tokens": rng.normal(size=(2, 3, 2)), "bias": rng.normal(size=2)}
    case = Case(TINY, WeightDecay(1.0), dtype=subject.dtype)
    x = subject.arrays(case)["x"]

    def penalty(arrays: Any) -> Any:
        params = {"bias": arrays["bias"], "layers": [(arrays["kernel"],), {"tokens": arrays["tokens"]}]}
        return subject.harness.calls.penalty(lambda x: x, x, None, case.reg, params=params)

    arrays = {name: subject.array(values, subject.dtype) for name, values in given.items()}
    value, slopes = subject.harness.value_and_gradients(penalty, arrays, subject.mode)
    given["bias"] = np.zeros(2)
    wanted = {**given, "value": np.array(0.5 * sum((values**2).sum() for values in given.values()))}
    result = {"value": subject.numbers(value)} | {name: subject.numbers(slopes[name]) for name in given}
    label = "WeightDecay of nested arrays with one, three and four axes, and its gradients,"
    subject.compare(case, label, result, Expected(wanted, 1.0))


@check("gradients")
def float32(subject: Subject) -> None:
    """In float32, values and gradients are as close to the reference as rounding the inputs allows."""
    if "float32" not in subject.harness.dtypes:
        raise NotApplicable("the harness declares no float32")
    _agree(subject, _RANDOM, dtype=st.just("float32"))


@check("gradients", general=True)
def any_regularizer_of_any_network(subject: Subject) -> None:
    """Values and gradients of any regularizer of the specification through any portable network."""

    @st.composite
    def anything(draw: Any) -> Any:
        classes = draw(st.integers(2, 4))
        regs = st.one_of(general_terms(classes), preset_terms())
        return draw(cases(subject.harness, regs, classifiers(subject.harness.layers, classes=classes)))

    @subject.given(anything())
    def _(case):  # type: ignore[no-untyped-def]
        subject.agree_in_both(case)
