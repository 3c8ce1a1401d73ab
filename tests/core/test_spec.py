"""The specification: what is accepted, what is refused and how, equality, sums, plain dicts."""

import json
import math
import pickle
from copy import deepcopy
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import GENERAL, PRESETS, named
from gradreg_core import presets, projections
from gradreg_core.errors import GradregError, SpecError
from gradreg_core.norms import hinge, identity, target
from gradreg_core.presets import ConfidencePenalty, DataGrad, GradientPenalty, HoffmanReg, SpectReg, WeightDecay
from gradreg_core.projections import direction, exact, gaussian, sphere
from gradreg_core.schema import from_dict, to_dict
from gradreg_core.spec import JacobianPenalty, Sum


@pytest.mark.parametrize("weight", [-1, -1e-9, math.nan, math.inf, "1", None, True, 1j, [1.0]])
def test_a_bad_weight_is_refused(weight: Any) -> None:
    with pytest.raises(SpecError, match="DataGrad: weight must be a finite number at least 0, got"):
        DataGrad(weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectReg(1.0, every=0), "SpectReg: every must be an integer of at least 1"),
        (lambda: SpectReg(1.0, every=1.5), "every must be an integer"),
        (lambda: SpectReg(1.0, fraction=0), "fraction must be a finite number greater than 0 and at most 1, got 0"),
        (lambda: SpectReg(1.0, fraction=1.1), "fraction must be"),
        (lambda: SpectReg(1.0, seed=-1), "seed must be an integer of at least 0"),
        (lambda: SpectReg(1.0, seed=2**64), "seed must be an integer"),
        (lambda: SpectReg(1.0, draw="batch"), "draw must be one of 'per_sample', 'per_batch', got 'batch'"),
        (lambda: SpectReg(1.0, spherical=1), "spherical must be True or False, got 1"),
        (lambda: SpectReg(1.0, projections=0), "projections must be an integer of at least 1"),
        (lambda: SpectReg(1.0, at=""), "at must be the name of a layer or None"),
        (lambda: GradientPenalty(1.0, target=-1), "target must be a finite number at least 0"),
        (lambda: HoffmanReg(1.0, projections=-1), "projections must be an integer of at least 1"),
        (lambda: JacobianPenalty(1.0, projection="gaussian"), "projection must be a projection such as"),
        (lambda: JacobianPenalty(1.0, phi=1), "phi must be identity"),
        (lambda: JacobianPenalty(1.0, norm="l3"), "norm must be one of 'l2', 'l1', 'linf', got 'l3'"),
        (lambda: JacobianPenalty(1.0, output="softmax"), "output must be one of"),
        (lambda: JacobianPenalty(1.0, scale=0), "scale must be a finite number greater than 0"),
        (lambda: JacobianPenalty(1.0, output="loss"), "output='loss' takes projection=exact"),
        (lambda: gaussian(0), "gaussian: k must be an integer of at least 1"),
        (lambda: gaussian(True), "gaussian: k must be an integer"),
        (lambda: sphere(1, unbiased=2), "sphere: unbiased must be True or False"),
        (lambda: target(-1), "target: t must be a finite number at least 0"),
        (lambda: hinge(math.nan), "hinge: t must be"),
        (lambda: direction(()), "direction: v must be numbers of shape"),
        (lambda: direction(((1.0, 2.0), (3.0,))), "direction: v must be numbers of shape"),
        (lambda: direction((1.0, math.inf)), "direction: v must be finite"),
        (lambda: Sum(()), "Sum: expected one or more terms"),
    ],
)
def test_bad_fields_are_refused(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()
    with pytest.raises(ValueError, match=message):  # each error is also the builtin that a caller would expect
        make()
    assert issubclass(SpecError, GradregError)


def test_only_the_weight_is_positional() -> None:
    with pytest.raises(TypeError):
        SpectReg(1.0, 2)  # type: ignore[misc]


@pytest.mark.parametrize("reg", named(PRESETS + GENERAL))
def test_specs_are_values(reg: Any) -> None:
    same = deepcopy(reg)
    assert same == reg
    assert hash(same) == hash(reg)
    assert reg != DataGrad(123.0)
    with pytest.raises(FrozenInstanceError):
        reg.terms[0].weight = 2.0


def test_equal_numbers_make_equal_specs() -> None:
    assert SpectReg(1) == SpectReg(np.float64(1.0)) == SpectReg(1.0, seed=np.int64(0))
    assert SpectReg(1.0) != SpectReg(1.0, seed=1)
    assert SpectReg(1.0) != SpectReg(1.0).lower()
    assert pickle.loads(pickle.dumps(SpectReg(1.0) + DataGrad(2.0))) == SpectReg(1.0) + DataGrad(2.0)


def test_repr_is_the_shortest_call_that_makes_it() -> None:
    reg = SpectReg(0.01, spherical=True) + ConfidencePenalty(0.1, every=4)
    assert repr(reg) == "SpectReg(0.01, spherical=True) + ConfidencePenalty(0.1, every=4)"
    assert repr(DataGrad(50.0).lower()) == "JacobianPenalty(50.0, projection=exact(), output='loss')"
    assert eval(repr(reg), vars(presets)) == reg


def test_sums_flatten_and_keep_their_order() -> None:
    a, b, c = DataGrad(1.0), SpectReg(2.0), WeightDecay(3.0)
    assert ((a + b) + c).terms == (a + (b + c)).terms == (a, b, c)
    assert sum([a, b, c]) == a + b + c
    with pytest.raises(TypeError):
        a + 1  # type: ignore[operator]


def test_a_schedule_is_called_with_the_step_and_checked() -> None:
    assert SpectReg(lambda step: step / 2).weight_at(5) == 2.5
    with pytest.raises(SpecError, match="schedule must return a finite number of at least 0, got -1 at step 3"):
        DataGrad(lambda step: -1).weight_at(3)


numbers = st.floats(0, 1e6, allow_nan=False)
counts = st.integers(1, 50)
projection = st.one_of(
    st.just(exact()),
    counts.map(gaussian),
    counts.map(projections.rademacher),
    st.builds(sphere, counts, unbiased=st.booleans()),
    st.builds(projections.orthonormal, counts, unbiased=st.booleans()),
    st.builds(projections.random_onehot, counts, unbiased=st.booleans()),
    st.just(projections.onehot()),
    st.just(projections.fisher()),
    counts.map(projections.top_k),
    counts.map(projections.top_singular),
    st.lists(st.floats(-5, 5), min_size=1, max_size=4).map(lambda v: direction(tuple(v))),
    st.just(direction(((1.0, 2.0), (3.0, 4.0)))),
)
common = {
    "every": counts,
    "fraction": st.floats(0.001, 1),
    "seed": st.integers(0, 2**64 - 1),
    "draw": st.sampled_from(["per_sample", "per_batch"]),
    "at": st.none() | st.just("layer1"),
}
general = st.builds(
    JacobianPenalty,
    numbers,
    projection=projection,
    output=st.sampled_from(["logits", "probabilities", "log_probabilities"]),
    norm=st.sampled_from(["l2", "l1", "linf"]),
    squared=st.booleans(),
    phi=st.one_of(st.just(identity()), numbers.map(target), numbers.map(hinge)),
    scale=st.floats(1e-3, 10),
    **common,
)
named = st.one_of(
    *(st.builds(kind, numbers, **common) for kind in (DataGrad, presets.JacReg, presets.OneHot)),
    st.builds(SpectReg, numbers, spherical=st.booleans(), projections=counts, **common),
    st.builds(HoffmanReg, numbers, projections=st.none() | counts, **common),
    st.builds(ConfidencePenalty, numbers, every=counts),
    st.builds(WeightDecay, numbers, every=counts),
)
term = general | named


@given(st.lists(term, min_size=1, max_size=4))
def test_dicts_are_json_and_give_the_same_spec_back(terms: list[Any]) -> None:
    reg = terms[0] if len(terms) == 1 else Sum(tuple(terms))
    data = json.loads(json.dumps(to_dict(reg)))
    assert data["schema"] == 1
    assert from_dict(data) == reg
    assert set(data) <= {"schema", "kind", "weight", "terms", *(() if len(terms) > 1 else terms[0].chosen())}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "expected a dict with 'schema': 1, got None"),
        ({"schema": 2, "kind": "DataGrad", "weight": 1}, "expected a dict with 'schema': 1, got 2"),
        ({"schema": 1, "kind": "DoubleGrad", "weight": 1}, "unknown kind 'DoubleGrad'; known are"),
        ({"schema": 1, "kind": "DataGrad", "weight": 1, "evry": 2}, "DataGrad has no field 'evry'"),
        ({"schema": 1, "kind": "DataGrad"}, "DataGrad needs a 'weight'"),
        ({"schema": 1, "kind": "DataGrad", "weight": -1}, "weight must be a finite number"),
        ({"schema": 1, "kind": "Sum", "terms": 3}, "a Sum has 'terms', a list"),
        ({"schema": 1, "kind": "Sum", "terms": [{"weight": 1}]}, "expected a dict with a 'kind'"),
        ({"schema": 1, "kind": "Term", "weight": 1}, "unknown kind 'Term'"),
    ],
)
def test_bad_dicts_are_refused(data: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_dict(data)


def test_a_schedule_does_not_go_into_a_dict() -> None:
    with pytest.raises(SpecError, match="a weight schedule is a function and cannot be written"):
        to_dict(SpectReg(lambda step: 1.0))


def test_lowering_pins_the_conventions() -> None:
    assert DataGrad(2.0).lower() == JacobianPenalty(2.0, projection=exact(), output="loss")
    assert SpectReg(1.0, spherical=True, seed=3).lower() == JacobianPenalty(1.0, projection=sphere(), seed=3)
    assert HoffmanReg(1.0).lower() == JacobianPenalty(1.0, projection=sphere(1, unbiased=True), scale=0.5)
    wgan = GradientPenalty(10.0).lower()
    assert wgan == JacobianPenalty(10.0, projection=exact(), squared=False, phi=target(1.0))
    assert replace(wgan, phi=hinge(1.0)) == GradientPenalty(10.0, one_sided=True).lower()
