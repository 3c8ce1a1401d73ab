"""Weights of the positions of dense outputs, and ignored labels: values and gradients, against the reference."""

from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.forms import Form
from gradreg_conformance.strategies import cases, with_options
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import ConfidencePenalty, DataGrad
from gradreg_core.projections import fisher, gaussian, orthonormal, random_onehot, sphere
from gradreg_core.spec import JacobianPenalty, Regularizer

_NETWORK = Network((3, 2), (Dense(2), Activation("tanh"), Dense(3)))
_BATCH = 4
_NUMBERS = st.sampled_from([0.5, 0.0, 2.0])
_WEIGHTS = (
    ((0.5, 0.0, 2.0), (0.0, 0.0, 0.0), (1.0, 1.0, 0.25), (0.0, 3.0, 0.0)),
    ((0.0, 0.5, 0.5), (2.0, 1.0, 0.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
)
_REGS: tuple[Regularizer, ...] = (
    JacobianPenalty(1.0, projection=gaussian(), fraction=0.5),
    DataGrad(1.0) + ConfidencePenalty(1.0) + JacobianPenalty(1.0, projection=gaussian(), output="probabilities"),
    JacobianPenalty(1.0, projection=gaussian(), side="input") + JacobianPenalty(1.0, projection=fisher()),
    DataGrad(1.0, fraction=0.5) + JacobianPenalty(1.0, projection=sphere(unbiased=True)),
    JacobianPenalty(1.0, projection=gaussian(), side="input", method="difference", h=1.0),
    JacobianPenalty(1.0, projection=random_onehot(2, unbiased=True))
    + JacobianPenalty(1.0, projection=orthonormal(2, unbiased=True)),
)
"""Every kind of term; each projection whose rows depend on how many components count."""


@st.composite
def _options(draw: Any) -> dict[str, Any]:
    """Further options of a call about its samples, drawn together."""
    return {
        "sample_weight": draw(st.sampled_from([(1.0, 0.5, 2.0, 1.0), None, (0.0, 1.0, 1.0, 0.0)])),
        "normalizer": draw(st.sampled_from([None, 7.0])),
        "ids": draw(st.sampled_from([None, (7, 3, 12, 5)])),
        "class_axis": draw(st.sampled_from([-1, 1])),
    }


def _agree(subject: Subject, reg: Regularizer, **fixed: Any) -> None:
    plain = cases(subject.harness, st.just(reg), st.just(_NETWORK), batch=(_BATCH, _BATCH))
    subject.given(with_options(plain, _options(), **fixed), cost=5)(subject.agree_in_total)


@check("gradients")
def position_weights(subject: Subject) -> None:
    """position_weight=: a sample counts with the sum of its positions' weights, one of weight 0 not at all."""
    for index, reg in enumerate(_REGS):
        _agree(subject, reg, position_weight=_WEIGHTS[index % 2])
    weights = st.tuples(*[st.tuples(*[_NUMBERS] * 3)] * _BATCH)
    regs = st.sampled_from(_REGS)
    plain = cases(subject.harness, regs, st.just(_NETWORK), batch=(_BATCH, _BATCH), position_weight=weights)
    subject.given(with_options(plain, _options()), cost=5)(subject.agree_in_total)


@check("gradients")
def position_weights_of_a_place(subject: Subject) -> None:
    """of= a place whose first axes are the positions: their weights are those of its components."""
    reg = JacobianPenalty(1.0, projection=random_onehot(2, unbiased=True), of="1") + ConfidencePenalty(1.0)
    _agree(subject, reg, position_weight=_WEIGHTS[1], form=Form(taps="each"))


@check("gradients")
def position_weights_of_a_loss_of_the_caller(subject: Subject) -> None:
    """A loss of the caller's gives one number for each position, and the weights average them."""
    reg = DataGrad(1.0, fraction=0.5) + DataGrad(1.0, side="input")
    _agree(subject, reg, position_weight=_WEIGHTS[0], loss="squared_per_position", class_axis=-1)


@check("gradients")
def positions_of_weight_zero(subject: Subject) -> None:
    """A position of weight 0 may hold anything: where its loss is infinite, loss and penalty are those of the rest."""
    subject.need_any_callable()
    ops, weights = subject.ops, np.array(_WEIGHTS[0])
    case = Case(_NETWORK, DataGrad(1.0), _BATCH, dtype=subject.dtype, position_weight=_WEIGHTS[0], class_axis=-1)
    options = subject.options(case) | {"loss_fn": lambda z, y: ops.sum(z * z, -1) + y}

    def total(arrays: Any, y: np.ndarray) -> Any:
        model, labels = subject.model(_NETWORK, arrays), subject.array(y, subject.dtype)
        return subject.harness.calls.loss(model, arrays["x"], labels, case.reg, **options)[0]

    results = []
    for of_the_rest in (np.inf, 0.0):
        function = partial(total, y=np.where(weights > 0, 1.0, of_the_rest))
        value, slopes = subject.harness.value_and_gradients(function, subject.arrays(case), subject.mode)
        results.append([float(subject.numbers(value)), float(subject.numbers(slopes["x"]).sum())])
    subject.measured.examples += 1
    if results[0] != results[1]:
        subject.disagree(
            case,
            f"total and slope are {results[0]} where losses of weight 0 are infinite, {results[1]} where they are 0",
        )


@check("gradients")
def ignored_labels(subject: Subject) -> None:
    """ignore_index=: positions with that label have weight 0, whether or not it is a class."""
    _agree(subject, _REGS[1], ignore_index=-1)
    _agree(subject, _REGS[0], ignore_index=0, position_weight=_WEIGHTS[1])
