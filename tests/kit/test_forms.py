"""The forms of the kit's models: what is taken apart comes together again, and what is returned can be selected."""

import pytest
import torch

from gradreg_conformance.cases import Case
from gradreg_conformance.forms import CONTAINERS, RETURNS, Form
from gradreg_conformance.reproduce import *  # noqa: F403 - what a printed case is made of
from gradreg_conformance.strategies import SMALL
from gradreg_core.inputs import Arguments, Inputs
from gradreg_core.presets import SpectReg, WeightDecay
from gradreg_core.selection import select
from gradreg_torch.backend import TorchBackend

OPS = TorchBackend()
LEAVES = ((2,), (), (1, 3))
X = torch.arange(24.0).reshape(4, 3, 2)
COUNTS = torch.tensor([3, 1, 2, 1], dtype=torch.int32)


@pytest.mark.parametrize("counts", ["", "leaf"])
@pytest.mark.parametrize("container", CONTAINERS)
def test_an_input_that_is_taken_apart_is_glued_together(container, counts):
    form = Form(container, LEAVES, counts=counts)
    x = form.taken_apart(OPS, X, COUNTS)
    leaves, passed = form.arrays(x.args, x.kwargs) if isinstance(x, Inputs) else form.arrays([x], {})
    assert [tuple(leaf.shape) for leaf in leaves] == [(4, 2), (4,), (4, 1, 3)]
    assert torch.equal(form.glued(OPS, leaves, (3, 2)), X)
    assert passed is (COUNTS if counts else None)


@pytest.mark.parametrize("container", CONTAINERS)
def test_the_components_are_in_the_order_of_the_arrays(container):
    packed = Arguments.of(OPS, "loss", Form(container, LEAVES).taken_apart(OPS, X, None)).packed()
    assert torch.equal(packed, X.reshape(4, 6))


@pytest.mark.parametrize("wrt", [(0,), (1,), (2,), (1, 2), (2, 0), (0, 1, 2)])
def test_the_arrays_that_are_differentiated_are_the_components_of_the_reference(wrt):
    form = Form("arguments", LEAVES, wrt=wrt)
    packed = Arguments.of(OPS, "loss", form.taken_apart(OPS, X, None)).packed()
    assert torch.equal(packed.reshape(4, -1), X.reshape(4, 6)[:, form.components])


@pytest.mark.parametrize("returns", ["array", *RETURNS])
def test_the_outputs_are_selected(returns):
    form = Form(returns=returns)
    z = torch.tensor([[0.5, -1.0, 2.0]])
    selected = select(OPS, "loss", form.selector, form.returned(z))
    assert torch.equal(selected, z[:, [0, 1, 2]])


def test_the_places_of_a_regularizer_are_named_after_the_taps():
    reg = SpectReg(1.0, at="0", of="2") + WeightDecay(1.0)
    assert Form().named(reg) is reg
    assert Form(taps="each").named(reg) == SpectReg(1.0, at="layer 0", of="layer 2") + WeightDecay(1.0)
    assert Form(taps="shared").named(reg) == SpectReg(1.0, at="layer#0", of="layer#2") + WeightDecay(1.0)


def test_a_case_prints_the_code_that_makes_it():
    form = Form("arguments", LEAVES, wrt=(0, 2), counts="leaf", returns="path", taps="each")
    case = Case(SMALL, SpectReg(1.0), 4, position_weight=((1.0, 0.0),), ignore_index=-100, form=form)
    assert eval(repr(case)) == case
    assert repr(Case(SMALL, SpectReg(1.0))) == f"Case(network={SMALL!r}, reg=SpectReg(1.0))"
