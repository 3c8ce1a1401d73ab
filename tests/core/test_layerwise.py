"""LayerwiseReg: pairs of neighbouring places, one term each, from one pass."""

from typing import Any

import pytest
import torch
from torch import nn

import gradreg_torch
from cases import FLOAT64
from gradreg_core.errors import SpecError
from gradreg_core.presets import DataGrad, FrobReg, LayerwiseReg
from gradreg_core.projections import exact, fisher
from gradreg_core.schema import from_dict, to_dict
from gradreg_core.spec import JacobianPenalty, Sum


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3), nn.Sigmoid(), nn.Linear(3, 2)).double()


X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)


def wanted(model: nn.Sequential, start: int, stop: int) -> torch.Tensor:
    """mean_i ||J_i||_F^2 of the layers [start, stop), by autograd alone."""
    x = model[:start](X).detach()
    J = torch.autograd.functional.jacobian(lambda x: model[start:stop](x).sum(0), x, create_graph=True)
    return (J**2).sum() / 3


@pytest.mark.parametrize(
    ("chosen", "parts"),
    [
        ({}, [(0, 2), (2, 4), (4, 5)]),
        ({"from_input": False}, [(2, 4), (4, 5)]),
        ({"to_outputs": False}, [(0, 2), (2, 4)]),
        ({"from_input": False, "to_outputs": False}, [(2, 4)]),
    ],
)
def test_each_pair_is_a_term(chosen: dict[str, bool], parts: list[tuple[int, int]]) -> None:
    model, calls = small(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    reg = LayerwiseReg(2.0, layers=("1", "3"), projection=exact(), **chosen)
    _, penalties = gradreg_torch.loss(model, X, torch.tensor([0, 1, 0]), reg)
    assert len(calls) == 1
    expected = [2 * wanted(model, *part).item() for part in parts]
    assert [penalty.item() for penalty in penalties.penalty] == pytest.approx(expected, rel=FLOAT64)


def test_taps_name_places_too() -> None:
    model = small()

    def tapped(x: torch.Tensor) -> torch.Tensor:
        h = gradreg_torch.tap("code", model[:2](x))
        return model[2:](h)

    reg = LayerwiseReg(1.0, layers=("code",), projection=exact())
    value = gradreg_torch.penalty(tapped, X, None, reg)
    assert value.item() == pytest.approx((wanted(model, 0, 2) + wanted(model, 2, 5)).item(), rel=FLOAT64)


def test_one_pair_over_the_whole_network_is_its_jacobian() -> None:
    model = small()
    layered = LayerwiseReg(1.0, layers=("4",), projection=exact(), to_outputs=False)
    value = gradreg_torch.penalty(model, X, None, layered)
    assert value.item() == pytest.approx(gradreg_torch.penalty(model, X, None, FrobReg(1.0)).item(), rel=FLOAT64)


def test_the_pairs_are_terms_of_a_sum() -> None:
    reg = LayerwiseReg(1.0, layers=["a", "b"], seed=3, every=2, squared=False)  # type: ignore[arg-type]
    pair = {"seed": 3, "every": 2, "squared": False}
    assert reg.terms == tuple(
        JacobianPenalty(1.0, at=at, of=of, **pair) for at, of in ((None, "a"), ("a", "b"), ("b", None))
    )
    assert (reg + DataGrad(2.0)).terms == (*reg.terms, DataGrad(2.0))
    assert isinstance(reg.lazy(4), Sum)
    assert [term.every for term in reg.lazy(4).terms] == [4, 4, 4]
    assert reg == LayerwiseReg(1.0, layers=("a", "b"), seed=3, every=2, squared=False)
    assert repr(reg) == "LayerwiseReg(1.0, every=2, layers=('a', 'b'), squared=False, seed=3)"
    assert eval(repr(reg)) == reg
    assert hash(reg) == hash(from_dict(to_dict(reg)))
    assert from_dict(to_dict(reg)) == reg
    assert from_dict(to_dict(reg + DataGrad(2.0))) == reg + DataGrad(2.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LayerwiseReg(1.0, layers=()), r"layers must be one or more names, all different, got \(\)"),
        (lambda: LayerwiseReg(1.0, layers=("a", "a")), "layers must be one or more names, all different"),
        (lambda: LayerwiseReg(1.0, layers=("a", 1)), "layers must be one or more names"),  # type: ignore[arg-type]
        (lambda: LayerwiseReg(1.0, layers=3), "layers must be one or more names"),  # type: ignore[arg-type]
        (lambda: LayerwiseReg(-1.0, layers=("a",)), "LayerwiseReg: weight must be a finite number"),
        (lambda: LayerwiseReg(1.0, layers=("a",), fraction=0), "LayerwiseReg: fraction must be"),
        (lambda: LayerwiseReg(1.0, layers=("a",), projection=fisher()), r"LayerwiseReg: fisher\(\) needs the outputs"),
        (
            lambda: LayerwiseReg(1.0, layers=("a",), from_input=False, to_outputs=False),
            r"\('a',\) has no pair; name two layers, or leave from_input=True",
        ),
        (lambda: from_dict({"schema": 1, "kind": "LayerwiseReg", "weight": 1.0}), "LayerwiseReg needs 'layers'"),
    ],
)
def test_pairs_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


def test_one_name_may_come_without_a_tuple() -> None:
    assert LayerwiseReg(1.0, layers="code") == LayerwiseReg(1.0, layers=("code",))  # type: ignore[arg-type]
