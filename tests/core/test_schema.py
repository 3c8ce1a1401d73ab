"""Specifications to and from plain dicts."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cases import GENERAL, PRESETS, named
from gradreg_core import norms, presets, projections, spec
from gradreg_core.errors import SpecError
from gradreg_core.norms import NORMS, hinge, identity, target
from gradreg_core.outputs import OUTPUTS
from gradreg_core.presets import ConfidencePenalty, DataGrad, HoffmanReg, SpectReg, WeightDecay
from gradreg_core.projections import Projection, direction, exact, gaussian, sphere
from gradreg_core.schema import from_dict, to_dict
from gradreg_core.spec import JacobianPenalty, Sum, Term

# --- round trips -----------------------------------------------------------------------------------------------------
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
    st.just(projections.ones()),
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
}
general = st.builds(
    JacobianPenalty,
    numbers,
    projection=projection,
    output=st.sampled_from([output for output in OUTPUTS if output != "loss"]),
    norm=st.sampled_from(list(NORMS)),
    squared=st.booleans(),
    phi=st.one_of(st.just(identity()), numbers.map(target), numbers.map(hinge)),
    scale=st.floats(1e-3, 10),
    at=st.none() | st.just("layer1"),
    **common,
)
normed = {"norm": st.sampled_from(list(NORMS)), "squared": st.booleans()}
critics = {"projection": st.just(exact()) | st.just(projections.ones())}
by_name = st.one_of(
    *(
        st.builds(kind, numbers, at=st.none() | st.just("layer1"), **normed, **common)
        for kind in (DataGrad, presets.JacReg, presets.OneHot)
    ),
    st.builds(presets.FrobReg, numbers, at=st.none() | st.just("layer1"), of=st.none() | st.just("layer2"), **common),
    st.builds(presets.R1, numbers, **normed, **critics, **common),
    st.builds(
        presets.GradientPenalty, numbers, method=st.just("difference"), h=st.floats(1e-4, 1), **critics, **common
    ),
    st.builds(presets.SobolevReg, numbers, projection=counts.map(gaussian), **normed, **common),
    st.builds(presets.SobolevReg, numbers, projection=st.just(exact()), output=st.sampled_from(list(OUTPUTS))),
    st.builds(JacobianPenalty, numbers, to_target=st.just(True), **common),
    st.builds(SpectReg, numbers, spherical=st.booleans(), projections=counts, **common),
    st.builds(SpectReg, numbers, side=st.just("input"), method=st.just("difference"), h=st.floats(1e-4, 1), **common),
    st.builds(HoffmanReg, numbers, projections=st.none() | counts, **common),
    st.builds(ConfidencePenalty, numbers, every=counts),
    st.builds(WeightDecay, numbers, every=counts),
)
term = general | by_name


@given(st.lists(term, min_size=1, max_size=4))
def test_dicts_are_json_and_give_the_same_spec_back(terms: list[Any]) -> None:
    reg = terms[0] if len(terms) == 1 else Sum(tuple(terms))
    data = json.loads(json.dumps(to_dict(reg)))
    assert data["schema"] == 1
    assert from_dict(data) == reg
    assert set(data) == {"schema", "kind", *(("weight", *terms[0].chosen()) if len(terms) == 1 else ("terms",))}


def without_schedules(regularizers: list[Any]) -> list[Any]:
    return [reg for reg in regularizers if not any(callable(term.weight) for term in reg.terms)]


@pytest.mark.parametrize("reg", named(without_schedules(PRESETS + GENERAL)))
def test_the_shared_regularizers_survive(reg: Any) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(reg)))) == reg


PARTS = [getattr(module, name) for module in (projections, norms) for name in module.__all__]


@pytest.mark.parametrize("kind", [part for part in PARTS if isinstance(part, type)], ids=lambda kind: kind.__name__)
def test_every_projection_and_phi_goes_into_a_dict(kind: type) -> None:
    field = "projection" if issubclass(kind, Projection) else "phi"
    reg = JacobianPenalty(1.0, **{field: kind()})
    assert from_dict(json.loads(json.dumps(to_dict(reg)))) == reg


def test_defaults_are_left_out() -> None:
    assert to_dict(DataGrad(50.0)) == {"schema": 1, "kind": "DataGrad", "weight": 50.0}
    assert to_dict(SpectReg(0.1, side="input", method="difference", h=0.02) + WeightDecay(1.0, every=2)) == {
        "schema": 1,
        "kind": "Sum",
        "terms": [
            {"kind": "SpectReg", "weight": 0.1, "side": "input", "method": "difference", "h": 0.02},
            {"kind": "WeightDecay", "weight": 1.0, "every": 2},
        ],
    }
    assert to_dict(JacobianPenalty(1.0, projection=sphere(2), phi=hinge(0.5))) == {
        "schema": 1,
        "kind": "JacobianPenalty",
        "weight": 1.0,
        "projection": {"kind": "sphere", "k": 2},
        "phi": {"kind": "hinge", "t": 0.5},
    }
    assert to_dict(JacobianPenalty(1.0, projection=direction(((1.0, 2.0),))))["projection"] == {
        "kind": "direction",
        "v": [[1.0, 2.0]],
    }


FULL = """
{"schema": 1, "kind": "Sum", "terms": [
  {"kind": "SpectReg", "weight": 0.01, "every": 1, "fraction": 1.0, "seed": 7, "draw": "per_sample", "at": null,
   "spherical": false, "projections": 3},
  {"kind": "SpectReg", "weight": 0.01, "every": 1, "fraction": 1.0, "seed": 0, "draw": "per_sample", "at": null,
   "side": "output", "method": "jvp", "h": 0.01, "spherical": true, "projections": 1},
  {"kind": "HoffmanReg", "weight": 0.1, "every": 1, "fraction": 1.0, "seed": 0, "draw": "per_sample", "at": null,
   "projections": null},
  {"kind": "JacobianPenalty", "weight": 1.0, "every": 2, "fraction": 0.5, "seed": 0, "draw": "per_batch",
   "at": "layer1", "side": "output", "method": "jvp", "h": 0.01, "projection": {"kind": "sphere", "k": 2,
   "unbiased": true}, "output": "logits", "norm": "l2", "squared": false, "phi": {"kind": "target", "t": 1.0},
   "scale": 0.5},
  {"kind": "JacobianPenalty", "weight": 1.0, "projection": {"kind": "direction", "v": [[1.0, 2.0], [3.0, 4.0]]}},
  {"kind": "WeightDecay", "weight": 0.0005, "every": 1}
]}
"""
"""As earlier versions wrote it, every field in it, before and after there was an input side."""


def test_full_dicts_of_earlier_versions_are_read() -> None:
    assert from_dict(json.loads(FULL)) == Sum(
        (
            SpectReg(0.01, seed=7, projections=3),
            SpectReg(0.01, spherical=True),
            HoffmanReg(0.1, projections=None),
            JacobianPenalty(
                1.0,
                every=2,
                fraction=0.5,
                draw="per_batch",
                at="layer1",
                projection=sphere(2, unbiased=True),
                squared=False,
                phi=target(1.0),
                scale=0.5,
            ),
            JacobianPenalty(1.0, projection=direction(((1.0, 2.0), (3.0, 4.0)))),
            WeightDecay(0.0005),
        )
    )


# --- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "expected a dict with 'schema': 1, got None"),
        ([1], r"expected a dict with 'schema': 1, got \[1\]"),
        ({"schema": 2, "kind": "DataGrad", "weight": 1}, "expected a dict with 'schema': 1, got 2"),
        ({"schema": 1, "kind": "DoubleGrad", "weight": 1}, "unknown kind 'DoubleGrad'; known are"),
        ({"schema": 1, "kind": ["DataGrad"], "weight": 1}, r"unknown kind \['DataGrad'\]; known are"),
        ({"schema": 1, "kind": "gaussian"}, "unknown kind 'gaussian'; known are"),
        ({"schema": 1, "kind": "DataGrad", "weight": 1, "evry": 2}, "DataGrad has no field 'evry'"),
        ({"schema": 1, "kind": "DataGrad"}, "DataGrad needs 'weight'"),
        ({"schema": 1, "kind": "DataGrad", "weight": -1}, "weight must be a finite number"),
        ({"schema": 1, "kind": "JacobianPenalty", "weight": 1, "phi": {"kind": "square"}}, "unknown kind 'square'"),
        ({"schema": 1, "kind": "JacobianPenalty", "weight": 1, "phi": {"t": 1}}, "expected a dict with a 'kind'"),
        ({"schema": 1, "kind": "JacobianPenalty", "weight": 1, "projection": "exact"}, "projection must be"),
        ({"schema": 1, "kind": "Sum", "terms": 3}, "a Sum has 'terms', a list"),
        ({"schema": 1, "kind": "Sum", "terms": []}, "Sum: expected one or more terms"),
        ({"schema": 1, "kind": "Sum", "terms": [], "weight": 1}, "a Sum has 'terms', a list, and nothing else"),
        ({"schema": 1, "kind": "Sum", "terms": [{"weight": 1}]}, "expected a dict with a 'kind'"),
        ({"schema": 1, "kind": "Sum", "terms": [{"kind": "Sum", "terms": []}]}, "unknown kind 'Sum'"),
        *(
            ({"schema": 1, "kind": kind, "weight": 1}, f"unknown kind '{kind}'; known are ConfidencePenalty, DataGrad")
            for kind in ("Term", "JacobianTerm", "SidedTerm", "Regularizer", "Batch")
        ),
    ],
)
def test_bad_dicts_are_refused(data: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        from_dict(data)


def test_a_schedule_does_not_go_into_a_dict() -> None:
    with pytest.raises(SpecError, match="SpectReg: a weight schedule is a function and cannot be written"):
        to_dict(SpectReg(lambda step: 1.0))
    with pytest.raises(SpecError, match="a weight schedule is a function"):
        to_dict(DataGrad(1.0) + SpectReg(math.sqrt))


def test_terms_of_others_do_not_go_into_a_dict() -> None:
    class Mine(Term):
        pass

    assert spec.Term.abstract
    assert not Mine.abstract
    for stranger in (Mine(1.0), 3, None):
        with pytest.raises(SpecError, match="to_dict: expected a regularizer of gradreg, got"):
            to_dict(stranger)  # type: ignore[arg-type]
