"""Inputs of several arrays: values and gradients of everything that a call can do with them, against the reference."""

from dataclasses import replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import gradreg_numpy
from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.forms import CONTAINERS, PLAIN, Form
from gradreg_conformance.reference import UNIT_ROUNDOFF
from gradreg_conformance.regularizers import seeds
from gradreg_conformance.strategies import cases, with_options
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Dropout, Network
from gradreg_core.presets import DataGrad
from gradreg_core.projections import exact, gaussian
from gradreg_core.spec import JacobianPenalty, Regularizer
from gradreg_numpy import Model
from gradreg_numpy.oracle import COMPLEX_STEP

_BODY = (Dense(2), Activation("tanh"), Dense(3))
_NETWORK = Network((4,), _BODY)
_MULTIPLIED = Network((4,), (Dropout(), *_BODY))
_MANY = Network((6,), (Dropout(), *_BODY))
_ROUNDINGS = 256
"""Of sums of some hundred products of numbers near 1."""
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
def inputs_of_many_arrays(subject: Subject) -> None:
    """Any number of arrays counts, and a mask of bool is cut with the samples and not differentiated."""
    subject.need_any_callable()
    case = Case(_MANY, DataGrad(1.0) + REGS[0] + REGS[1], _BATCH, dtype=subject.dtype)
    subject.need_layers(case.network)
    ops, names, y = subject.ops, case.network.weights(), subject.labels(case)
    # Each sample has its own zeros, so that a mask of other samples shows.
    keeps = np.arange(_BATCH * 6).reshape(_BATCH, 6) % 4 > 0
    mask = subject.array(keeps, "bool")

    def function(arrays: Any) -> Any:
        body = subject.model(case.network, arrays)

        def model(x: Any) -> Any:
            columns, kept = x["columns"], x["kept"]
            return body(ops.where(kept, ops.concat(columns, 1), 0.0))

        x = {"columns": [arrays["x"][:, index : index + 1] for index in range(6)], "kept": mask}
        params = {path: arrays[path] for path in names}
        return subject.harness.calls.penalty(model, x, y, case.reg, params=params)

    value, slopes = subject.harness.value_and_gradients(function, subject.arrays(case), subject.mode)
    subject.measured.examples += 1
    reference, along = Model(_MANY, case.data.params, {"0": keeps}), np.random.default_rng(0).normal(size=keeps.shape)
    wanted = gradreg_numpy.penalty(reference, case.data.x + 1j * COMPLEX_STEP * along, case.data.y, case.reg)
    results = {
        "the penalty": (float(subject.numbers(value)), float(np.real(wanted))),
        "its slope": (float((subject.numbers(slopes["x"]) * along).sum()), float(np.imag(wanted) / COMPLEX_STEP)),
    }
    for label, (result, expected) in results.items():
        allowed = _ROUNDINGS * UNIT_ROUNDOFF[subject.dtype] * subject.harness.tolerance * (1.0 + abs(expected))
        subject.close(case, f"{label} with six arrays and a mask as input", result, expected, allowed)


@check("gradients")
def models_that_hold_samples(subject: Subject) -> None:
    """A model may close over arrays of the whole batch: fraction=p penalises a part of it all the same."""
    _agree(subject, Form(counts="closure"), REGS[0] + DataGrad(1.0, fraction=0.4))
