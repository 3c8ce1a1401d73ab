"""Places inside of a model that taps mark: Jacobians between any two of them, against the reference."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_conformance.cases import Case
from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.forms import Form
from gradreg_conformance.regularizers import Ramp
from gradreg_conformance.strategies import cases
from gradreg_conformance.subject import Subject
from gradreg_core.errors import InputError
from gradreg_core.norms import target
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import DataGrad
from gradreg_core.projections import exact, gaussian, rademacher, sphere
from gradreg_core.spec import JacobianPenalty, Regularizer
from gradreg_core.taps import tap

_NETWORK = Network((2,), (Dense(3), Activation("tanh"), Dense(2), Activation("sigmoid"), Dense(3)))
_BATCH = 5
_PAIRS: tuple[tuple[str | None, str | None], ...] = (
    (None, "0"),
    ("1", None),
    ("3", "1"),
    ("2", "0"),
)
"""(of, at), by the indices of layers."""


def _term(of: str | None, at: str | None, **chosen: Any) -> JacobianPenalty:
    return JacobianPenalty(1.0, of=of, at=at, **{"projection": gaussian(), **chosen})


@st.composite
def _terms(draw: Any, first: tuple[str | None, str | None]) -> Regularizer:
    """A term between two places, and others between others beside it."""
    chosen = {
        "projection": draw(st.sampled_from([gaussian(), exact(), rademacher(2)])),
        "norm": draw(st.sampled_from(["l2", "l1"])),
        "fraction": draw(st.sampled_from([1.0, 0.5])),
    }
    reg: Regularizer = _term(*first, **chosen)
    for pair in draw(st.lists(st.sampled_from(_PAIRS), max_size=1)):
        reg = reg + _term(*pair, seed=1)
    return reg + DataGrad(1.0) if draw(st.booleans()) else reg


_OPTIONS = (
    replace(_term("3", "1", norm="l1", squared=False, phi=target(0.5)), weight=Ramp(1.0, 0.5))
    + _term("2", "0", draw="per_batch", every=2, norm="linf", projection=sphere(3, unbiased=True))
    + _term("1", None, fraction=0.4, seed=2, projection=rademacher(2), scale=0.5)
)


def _agree(subject: Subject, pair: tuple[str | None, str | None], taps: str) -> None:
    form = st.just(Form(taps=taps))
    drawn = cases(subject.harness, _terms(pair), st.just(_NETWORK), batch=(_BATCH, _BATCH), form=form)
    subject.given(drawn, cost=5)(subject.agree_in_total)


@check("gradients")
def places_that_taps_mark(subject: Subject) -> None:
    """at= and of= name taps: the Jacobian of one place with respect to an earlier one, the input or the outputs."""
    for pair in _PAIRS:
        _agree(subject, pair, "each")


@check("gradients")
def options_of_places(subject: Subject) -> None:
    """A term between two places has its own norm, phi, weight, draw, `every` and part of the batch, as others have."""
    case = Case(_NETWORK, _OPTIONS, _BATCH, ids=(7, 3, 12, 5, 9), dtype=subject.dtype, form=Form(taps="each"))
    subject.measured.examples += 1
    subject.agree_in_slopes(case, "parts")


@check("gradients")
def places_passed_several_times(subject: Subject) -> None:
    """name#0 and name#1 tell apart the times that a place is passed."""
    for pair in (("3", "1"), (None, "2")):
        _agree(subject, pair, "shared")


@check("gradients")
def misnamed_places_are_refused(subject: Subject) -> None:
    """A place that is not passed, passed twice, or passed before at= is refused; outside of a call a tap is nothing."""
    subject.need_any_callable()
    value = subject.array(np.ones((2, 2)), subject.dtype)
    if tap("layer", value) is not value:
        raise Disagreement("tap(name, value) outside of a call is not the value itself")
    plain = Case(_NETWORK, _term(None, None), _BATCH, dtype=subject.dtype, form=Form(taps="each"))
    misnamed: dict[str, tuple[JacobianPenalty, str, str]] = {
        "a place that is not passed": (_term(None, "absent"), "each", "absent"),
        "of= that is passed before at=": (_term("layer 0", "layer 2"), "each", "layer 0"),
        "of= that is at=": (_term("layer 2", "layer 2"), "each", "layer 2"),
        "a place that is passed several times": (_term(None, "layer"), "shared", "layer#0"),
        "a time that does not come": (_term(None, "layer#9"), "shared", "layer"),
    }
    for mistake, (reg, taps, name) in misnamed.items():
        case = replace(plain, form=Form(taps=taps))
        model, x = subject.presented(case)(subject.arrays(case))
        _refused(mistake, name, partial(subject.harness.calls.penalty, model, x, None, reg))


def _refused(mistake: str, name: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except InputError as error:
        if name not in str(error):
            raise Disagreement(f"{mistake} is refused, but the error does not name {name!r}: {error}") from error
    except Exception as error:
        raise Disagreement(f"{mistake}: expected InputError, got {type(error).__name__}: {error}") from error
    else:
        raise Disagreement(f"{mistake}: expected InputError, got a penalty")
