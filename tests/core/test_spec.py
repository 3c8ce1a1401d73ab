"""The specification: what is accepted, what is refused and how, equality, sums, steps."""

import math
import pickle
from copy import deepcopy
from dataclasses import FrozenInstanceError, dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import gradreg_torch
from cases import GENERAL, PRESETS, named, problem
from gradreg_core import presets
from gradreg_core.errors import GradregError, SpecError
from gradreg_core.norms import hinge, target
from gradreg_core.presets import (
    ConfidencePenalty,
    DataGrad,
    GradientPenalty,
    HoffmanReg,
    JacReg,
    OneHot,
    SpectReg,
    WeightDecay,
)
from gradreg_core.projections import direction, exact, fisher, gaussian, sphere
from gradreg_core.spec import Batch, JacobianPenalty, JacobianTerm, SidedTerm, Sum, Term
from gradreg_torch.networks import Module


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
        (lambda: SpectReg(1.0, at=""), "at must be the name of a layer or of a tap, or None"),
        (lambda: SpectReg(1.0, of=""), "of must be the name of a layer or of a tap, or None"),
        (lambda: DataGrad(1.0, of="a"), "DataGrad: of='a' .* output='loss' needs the outputs"),
        (lambda: OneHot(1.0, of="a"), r"OneHot: of='a' .* onehot\(\) needs the outputs"),
        (lambda: SpectReg(1.0, of="a", side="input"), "SpectReg: of='a' goes with side='output' only"),
        (lambda: JacobianPenalty(1.0, of="a", output="probabilities"), "output='probabilities' needs the outputs"),
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


# --- classes that are bases ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("base", [Term, JacobianTerm, SidedTerm])
def test_bases_cannot_be_constructed(base: type[Term]) -> None:
    message = (
        rf"^{base.__name__} is the base class of regularizers and has no value of its own; use a named one such as"
    )
    with pytest.raises(SpecError, match=message):
        base(1.0)
    assert base.abstract


def test_a_term_of_ones_own_is_constructed_and_evaluated() -> None:
    @dataclass(frozen=True, repr=False)
    class MeanOutput(Term):
        """weight * mean_i sum_k z_ik."""

        needs_outputs: ClassVar[bool] = True

        def value(self, batch: Batch) -> Any:
            return batch.mean(batch.ops.sum(batch.forward.logits, (1, 2)))

    model, x, y = problem("dense")
    module = Module(model.network, model.params, torch.float64)
    reg = MeanOutput(2.0, every=3) + DataGrad(1.0)
    _, parts = gradreg_torch.loss(module, torch.tensor(x), torch.tensor(y), reg, step=3)
    torch.testing.assert_close(parts.penalty[0], 6.0 * parts.outputs.sum(1).mean())
    assert repr(reg) == "MeanOutput(2.0, every=3) + DataGrad(1.0)"


# --- fields that do not go together ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectReg(1.0, side="both"), "side must be one of"),
        (lambda: SpectReg(1.0, side="input", method="secant"), "method must be one of"),
        (lambda: SpectReg(1.0, method="difference"), "follows the gradient of one number"),
        (lambda: SpectReg(1.0, side="input", h=0.1), "step of method='difference'"),
        (lambda: SpectReg(1.0, side="input", method="difference", h=0.0), "h must be"),
        (lambda: SpectReg(1.0, side="input", at="3"), "does not go with side='input'"),
        (lambda: JacobianPenalty(1.0, side="input", projection=fisher()), "is a direction in output space"),
        (
            lambda: JacobianPenalty(1.0, output="loss", projection=gaussian()),
            r"takes projection=exact\(\), got gaussian",
        ),
    ],
)
def test_specifications_that_make_no_sense(make: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make()


# --- steps -----------------------------------------------------------------------------------------------------------
def test_a_term_is_due_where_it_may_cost_something() -> None:
    assert DataGrad(1.0).is_due(7)
    assert [step for step in range(9) if DataGrad(1.0, every=4).is_due(step)] == [0, 4, 8]
    assert not DataGrad(0.0).is_due(0)
    assert [DataGrad(lambda step: 0.0 if step < 2 else 1.0).is_due(step) for step in (1, 2)] == [False, True]
    traced = torch.tensor(3)
    assert DataGrad(1.0, every=4).is_due(traced)
    assert DataGrad(lambda step: 0.0 * step).is_due(traced)
    assert not DataGrad(0.0, every=4).is_due(traced)


def test_lazy_changes_jacobian_terms_alone() -> None:
    assert DataGrad(2.0, seed=3).lazy(8) == DataGrad(2.0, seed=3, every=8)
    both = DataGrad(2.0) + WeightDecay(0.1)
    assert both.lazy(5) == DataGrad(2.0, every=5) + WeightDecay(0.1)
    several = DataGrad(2.0) + SpectReg(1.0) + JacReg(1.0) + JacobianPenalty(1.0, projection=exact(), output="loss")
    assert [term.every for term in several.lazy().terms] == [2, 8, 8, 2]
    with pytest.raises(SpecError, match="every must be"):
        DataGrad(1.0).lazy(0)
