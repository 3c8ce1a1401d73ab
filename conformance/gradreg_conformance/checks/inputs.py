"""Inputs of several arrays: values and gradients of everything that a call can do with them, against the reference."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from gradreg_conformance.check import check
from gradreg_conformance.forms import CONTAINERS, PLAIN, Form
from gradreg_conformance.regularizers import seeds
from gradreg_conformance.strategies import cases, with_options
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Dropout, Network
from gradreg_core.presets import DataGrad
from gradreg_core.projections import exact, gaussian
from gradreg_core.spec import JacobianPenalty, Regularizer

_BODY = (Dense(2), Activation("tanh"), Dense(3))
_NETWORK = Network((4,), _BODY)
_MULTIPLIED = Network((4,), (Dropout(), *_BODY))
_LEAVES = ((2,), (), (1, 1))
_BATCH = 5
"""No weight of the networks has that length, which could belong to the samples."""
REGS: tuple[Regularizer, ...] = (
    JacobianPenalty(1.0, projection=gaussian(), fraction=0.5),
    JacobianPenalty(1.0, projection=gaussian(), side="input"),
    DataGrad(1.0, fraction=0.5) + JacobianPenalty(1.0, projection=exact(), norm="linf", squared=False),
    JacobianPenalty(1.0, projection=gaussian(), side="input", method="difference", h=1.0),
)
"""Terms that a mistake in the input shows in: directions in its space, parts of the batch, every norm."""


@st.composite
def _options(draw: Any, form: Form) -> dict[str, Any]:
    """The options of a call, drawn together; most of them in the simplest draw, which a short run has alone."""
    plain = form == PLAIN or draw(st.booleans())
    return {
        "form": form if plain else replace(form, labels="dict"),
        "loss": "squared" if not plain or draw(st.booleans()) else "cross_entropy",
        "ids": draw(st.sampled_from([(7, 3, 12, 5, 9), None])),
        "sample_weight": draw(st.sampled_from([(1.0, 0.5, 2.0, 0.0, 1.0), None])),
        "draw_seed": draw(st.none() | seeds),
    }


def _agree(subject: Subject, form: Form, reg: Regularizer) -> None:
    """Compare loss plus penalty, and its gradients, with all else drawn together."""
    network = _MULTIPLIED if form.counts else _NETWORK

    plain = cases(subject.harness, st.just(reg), st.just(network), batch=(_BATCH, _BATCH))
    subject.given(with_options(plain, _options(form)), cost=5)(subject.agree_in_total)


@check("gradients")
def nested_inputs(subject: Subject) -> None:
    """The arrays of a dict, a tuple, a nested structure or of Inputs count together, and are cut with the samples."""
    for container, reg in zip(CONTAINERS, REGS, strict=True):
        _agree(subject, Form(container, _LEAVES, counts="leaf"), reg)


@check("gradients")
def inputs_with_respect_to(subject: Subject) -> None:
    """wrt= restricts the Jacobian to the arrays that it names; the others are passed, cut and not differentiated."""
    for subset, reg in zip(((1, 2), (0, 2), (2,)), REGS[:3], strict=True):
        _agree(subject, Form("arguments", _LEAVES, wrt=subset), reg)


@check("gradients")
def models_that_hold_samples(subject: Subject) -> None:
    """A model may close over arrays of the whole batch: fraction=p penalises a part of it all the same."""
    _agree(subject, Form(counts="closure"), REGS[0] + DataGrad(1.0, fraction=0.4))
