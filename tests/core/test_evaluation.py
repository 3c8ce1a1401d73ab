"""The plan and the sums: which terms are due, which share a pass, how often the model is called, weighted means."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import gradreg_torch
from gradreg_core.calls import Calls
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.evaluation import Plan, make_plan
from gradreg_core.forward import Call
from gradreg_core.presets import ConfidencePenalty, DataGrad, FrobReg, SpectReg, WeightDecay
from gradreg_core.spec import JacobianPenalty, Regularizer
from gradreg_torch.backend import TorchBackend
from minimal_backend import ABSTRACT, CALLS, subclass

OPS = TorchBackend()
WEIGHT = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
X = torch.randn(8, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
INPUT = SpectReg(1.0, side="input")
PART = SpectReg(1.0, fraction=0.25, seed=5)


class Counted:
    """A smooth model that notes the sizes of the batches it is called on."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return torch.tanh(x) @ WEIGHT


def plan(reg: Regularizer, *, with_loss: bool = True, **options: Any) -> Plan:
    return make_plan(Call(OPS, "test", **options), reg.terms, 8, with_loss)


# --- the plan --------------------------------------------------------------------------------------------------------
def test_terms_over_the_whole_batch_share_a_pass() -> None:
    reg = DataGrad(1.0) + SpectReg(2.0) + WeightDecay(1.0) + ConfidencePenalty(1.0)
    assert plan(reg) == Plan((True,) * 4, (DataGrad(1.0).lower(), SpectReg(2.0).lower()), {}, True)


def test_terms_that_are_not_due_are_in_no_pass() -> None:
    reg = DataGrad(1.0, every=2) + SpectReg(0.0) + PART + SpectReg(lambda step: 0.0) + FrobReg(1.0)
    planned = plan(reg, step=3)
    assert planned.due == (False, False, True, False, True)
    assert planned.over_whole == (FrobReg(1.0).lower(),)
    assert list(planned.over_part.values()) == [(PART.lower(),)]
    assert plan(reg, step=torch.tensor(3)).due == (True, False, True, False, True)  # a traced step may be any


def test_parts_are_shared_by_fraction_and_seed() -> None:
    same, other_seed, other_part = (
        DataGrad(1.0, fraction=0.25, seed=5),
        DataGrad(1.0, fraction=0.25, seed=6),
        DataGrad(1.0, fraction=0.5, seed=5),
    )
    assert [len(terms) for terms in plan(PART + same + other_seed + other_part).over_part.values()] == [2, 1, 1]
    assert [len(terms) for terms in plan(PART + same + other_seed + other_part, seed=1).over_part.values()] == [3, 1]
    assert plan(SpectReg(1.0, fraction=0.99)).over_part == {}  # rounded up to all eight samples
    assert plan(SpectReg(1.0, fraction=0.99)).over_whole


@pytest.mark.parametrize(
    ("reg", "with_loss", "needs_whole"),
    [
        (PART, True, True),
        (PART, False, False),
        (PART + ConfidencePenalty(1.0), False, True),
        (PART + DataGrad(1.0), True, True),
        (PART + DataGrad(1.0, fraction=0.5), True, True),
        (WeightDecay(1.0), False, False),
        (WeightDecay(1.0), True, True),
        (ConfidencePenalty(1.0, every=2), False, False),
    ],
)
def test_what_needs_the_whole_batch(reg: Regularizer, with_loss: bool, needs_whole: bool) -> None:
    assert plan(reg, with_loss=with_loss, step=1).needs_whole == needs_whole


def test_directions_of_the_call_do_not_go_with_parts() -> None:
    with pytest.raises(InputError, match="test: directions= in the call and fraction < 1 do not go together"):
        plan(PART, directions=torch.ones(4))
    plan(SpectReg(1.0, fraction=0.25, every=2), directions=torch.ones(4), step=1)  # not due


# --- calls of the model ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("reg", "of_loss", "of_penalty"),
    [
        (DataGrad(1.0) + SpectReg(1.0) + ConfidencePenalty(1.0), [8], [8]),
        (WeightDecay(1.0), [8], []),
        (DataGrad(0.0), [8], []),
        (DataGrad(1.0, every=2), [8], []),
        (PART, [8, 2], [2]),
        (PART + DataGrad(1.0, fraction=0.25, seed=5), [8, 2], [2]),
        (PART + ConfidencePenalty(1.0), [8, 2], [8, 2]),
        (PART + DataGrad(1.0), [8, 2], [8, 2]),
        (PART + DataGrad(1.0, fraction=0.5), [8, 2, 4], [2, 4]),
        (INPUT, [8], [8]),
        (INPUT + DataGrad(1.0, side="input"), [8, 8], [8, 8]),
        (INPUT + DataGrad(1.0), [8, 8], [8, 8]),
        (SpectReg(1.0, side="input", method="difference"), [8, 8], [8, 8]),
        (SpectReg(1.0, side="input", projections=3, method="difference"), [8] * 6, [8] * 6),
        (SpectReg(1.0, side="input", every=2), [8], []),
        (SpectReg(1.0, side="input", fraction=0.5), [8, 4], [4]),
    ],
    ids=repr,
)
def test_how_often_the_model_is_called(reg: Regularizer, of_loss: list[int], of_penalty: list[int]) -> None:
    model = Counted()
    gradreg_torch.loss(model, X, Y, reg, step=1, params=[WEIGHT])
    assert model.batches == of_loss
    model = Counted()
    gradreg_torch.penalty(model, X, Y, reg, step=1, params=[WEIGHT])
    assert model.batches == of_penalty


def test_terms_that_cost_nothing_do_not_walk_the_graph() -> None:
    def refuses(outputs: Tensor) -> Tensor:
        raise AssertionError("the graph was walked")

    weight = WEIGHT.clone().requires_grad_()

    def hooked(x: Tensor) -> Tensor:
        outputs = torch.tanh(x) @ weight
        outputs.register_hook(refuses)
        return outputs

    for reg in (DataGrad(0.0), DataGrad(1.0, every=2), DataGrad(lambda step: 0.0)):
        _, parts = gradreg_torch.loss(hooked, X, Y, reg, step=1)
        assert parts.penalty[0].item() == 0.0
    with pytest.raises(AssertionError, match="the graph was walked"):
        gradreg_torch.loss(hooked, X, Y, DataGrad(1.0, every=2), step=2)


# --- parts of the batch ----------------------------------------------------------------------------------------------
def test_loss_and_outputs_are_of_the_whole_batch_where_a_part_is_penalised() -> None:
    total, parts = gradreg_torch.loss(Counted(), X, Y, PART, step=3)
    torch.testing.assert_close(parts.outputs, Counted()(X))
    torch.testing.assert_close(parts.loss, torch.nn.functional.cross_entropy(Counted()(X), Y))
    torch.testing.assert_close(total, parts.loss + parts.penalty[0])


def chosen(step: int, reg: Regularizer = PART, ids: Any = None) -> Tensor:
    """The rows of X that a part penalises: those that the penalty's input gradient reaches."""
    x = X.clone().requires_grad_()
    value = gradreg_torch.penalty(Counted(), x, Y, reg, step=step, sample_ids=ids)
    (gradient,) = torch.autograd.grad(value, x)
    return gradient.abs().sum(1).nonzero()[:, 0]


def test_a_part_is_drawn_anew_at_each_step_and_each_sample_as_often() -> None:
    parts = torch.stack([chosen(step) for step in range(200)])
    assert parts.shape == (200, 2)
    counts = torch.bincount(parts.flatten(), minlength=8)
    assert bool(((counts - 50).abs() < 5 * math.sqrt(200 * 0.25 * 0.75)).all())  # five standard deviations


def test_a_part_depends_on_the_samples_and_not_on_their_order() -> None:
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    for step in range(5):
        by_place = gradreg_torch.penalty(Counted(), X, Y, PART, step=step)
        moved = gradreg_torch.penalty(Counted(), X[order], Y[order], PART, step=step, sample_ids=order)
        torch.testing.assert_close(moved, by_place)


def test_the_penalty_of_a_part_is_scaled_to_the_batch() -> None:
    reg, rows = FrobReg(1.0, fraction=0.25, seed=5), chosen(3)
    assert torch.equal(chosen(3, reg), rows)
    value = gradreg_torch.penalty(Counted(), X, Y, reg, step=3)
    torch.testing.assert_close(value, gradreg_torch.penalty(Counted(), X[rows], Y[rows], FrobReg(1.0)))
    weight = torch.arange(8, dtype=torch.float64)
    weighted = gradreg_torch.penalty(Counted(), X, Y, reg, step=3, sample_weight=weight)
    of_rows = torch.stack([gradreg_torch.penalty(Counted(), X[row : row + 1], None, FrobReg(1.0)) for row in rows])
    torch.testing.assert_close(weighted, (weight[rows] * of_rows).sum() * 4 / weight.sum())


# --- weights and steps -----------------------------------------------------------------------------------------------
def test_every_is_unbiased_over_a_period() -> None:
    once = gradreg_torch.penalty(Counted(), X, Y, DataGrad(1.5)).item()
    values = [gradreg_torch.penalty(Counted(), X, Y, DataGrad(1.5, every=4), step=step).item() for step in range(8)]
    assert values == pytest.approx([4 * once, 0, 0, 0] * 2, rel=1e-12)


@pytest.mark.parametrize("step", range(5))
def test_a_traced_step_gives_the_numbers_of_a_step_that_is_known(step: int) -> None:
    """The backend of defaults knows no tensor as an int, so that a tensor is a traced step to it."""
    reg = (
        DataGrad(2.0, every=2)
        + SpectReg(lambda step: 0.125 * (step + 1), seed=5)
        + ConfidencePenalty(0.1, every=4)
        + SpectReg(0.5, side="input", every=2)
        + SpectReg(0.5, fraction=0.25)
    )
    known, traced = (CALLS["minimal"].loss(Counted(), X, Y, reg, step=kind) for kind in (step, torch.tensor(step)))
    torch.testing.assert_close(traced[0], known[0])
    for one, other in zip(traced[1].penalty, known[1].penalty, strict=True):
        torch.testing.assert_close(one, other)


def test_only_terms_of_every_are_in_a_branch_of_a_traced_step() -> None:
    predicates: list[Tensor] = []

    class Watched(subclass(*ABSTRACT)):  # type: ignore[misc]
        def cond(self, predicate: Tensor, branch: Any) -> Tensor:
            predicates.append(predicate)
            return super().cond(predicate, branch)

    calls, reg = Calls(Watched()), DataGrad(1.0) + SpectReg(1.0, every=3) + WeightDecay(1.0, every=2)
    calls.loss(Counted(), X, Y, reg, step=torch.tensor(4), params=[WEIGHT])
    assert [bool(predicate) for predicate in predicates] == [False, True]
    predicates.clear()
    calls.loss(Counted(), X, Y, reg, step=4, params=[WEIGHT])
    assert not predicates


def test_a_schedule_in_another_dtype_does_not_change_that_of_the_penalty() -> None:
    reg = DataGrad(lambda step: torch.tensor(0.5, dtype=torch.float32))
    value = gradreg_torch.penalty(Counted(), X, Y, reg, step=0)
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, gradreg_torch.penalty(Counted(), X, Y, DataGrad(0.5)))


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (-1, InputError, "loss: step must be at least 0, got -1"),
        (2.0, InputTypeError, "loss: step must be an integer, got 2.0"),
        (True, InputTypeError, "loss: step must be an integer, got True"),
        (torch.tensor(2.0), InputTypeError, "a 0-d array of integers, got float32"),
        (torch.tensor([2]), InputTypeError, r"got int64 of shape \(1,\)"),
    ],
)
def test_bad_steps_are_refused(step: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gradreg_torch.loss(Counted(), X, Y, DataGrad(1.0), step=step)


# --- means -----------------------------------------------------------------------------------------------------------
weights = st.lists(st.floats(0, 10), min_size=8, max_size=8)


def by_sample(reg: Regularizer) -> list[float]:
    return [gradreg_torch.penalty(Counted(), X[i : i + 1], Y[i : i + 1], reg, sample_ids=[i]).item() for i in range(8)]


REG = DataGrad(1.0) + SpectReg(0.5)
VALUES = np.array(by_sample(REG))


@given(weights, st.none() | st.floats(0.5, 100))
def test_means_are_weighted_and_divided_by_the_normalizer(weight: list[float], normalizer: float | None) -> None:
    value = gradreg_torch.penalty(
        Counted(), X, Y, REG, sample_weight=torch.tensor(weight).double(), normalizer=normalizer
    )
    total = sum(np.float32(weight).astype(float)) or 1.0
    wanted = (np.float32(weight).astype(float) * VALUES).sum() / (total if normalizer is None else normalizer)
    assert value.item() == pytest.approx(wanted, rel=1e-6, abs=1e-12)


def test_a_mask_leaves_samples_out_of_the_loss_and_the_penalties() -> None:
    mask = torch.tensor([True, False] * 4)
    masked, kept = (
        gradreg_torch.loss(Counted(), X, Y, REG, sample_weight=mask),
        gradreg_torch.loss(Counted(), X[::2], Y[::2], REG, sample_ids=range(0, 8, 2)),
    )
    torch.testing.assert_close(masked[0], kept[0])
    empty, _ = gradreg_torch.loss(Counted(), X, Y, REG, sample_weight=torch.zeros(8))
    assert empty.item() == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sample_weight": [1.0] * 7}, r"loss: sample_weight must have shape \(8,\), got \(7,\)"),
        ({"sample_weight": [-1.0] + [1.0] * 7}, "loss: sample_weight must be finite and at least 0 everywhere"),
        ({"sample_weight": [math.nan] * 8}, "sample_weight must be finite and at least 0"),
        ({"normalizer": 0}, "loss: normalizer must be a finite number above 0, got 0"),
        ({"normalizer": math.inf}, "normalizer must be a finite number above 0, got inf"),
        (
            {"sample_ids": [0, 1]},
            r"loss: sample_ids must be 8 integers, one for each sample, got int64 of shape \(2,\)",
        ),
        ({"sample_ids": [0.0] * 8}, "sample_ids must be 8 integers.*got float32"),
    ],
)
def test_bad_weights_normalizers_and_ids_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        gradreg_torch.loss(Counted(), X, Y, REG, **options)


def test_penalties_that_need_no_pass_have_the_dtype_of_the_input() -> None:
    params = [torch.ones(2, 2)]
    for x, dtype in ((X, torch.float64), (X.float(), torch.float32), (Y, torch.float32)):
        assert gradreg_torch.penalty(Counted(), x, None, DataGrad(0.0)).dtype == dtype
        assert gradreg_torch.penalty(Counted(), x, None, WeightDecay(1.0), params=params).item() == 2.0
    general = JacobianPenalty(0.0) + WeightDecay(1.0)
    assert gradreg_torch.penalty(Counted(), X, None, general, params=params).item() == 2.0
