"""`Criterion`: it counts its steps, resumes, and takes the arguments of `loss`."""

import inspect
from typing import Any

import pytest
import torch

import gradreg_torch as gradreg
from gradreg_core.errors import InputTypeError
from torch_cases import REG, batch, make


class Run:
    """A training run with everything that a checkpoint must hold."""

    def __init__(self) -> None:
        self.model = make()
        self.criterion = gradreg.Criterion(None, REG)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.01)

    def train(self, start: int, stop: int) -> list[float]:
        losses = []
        for step in range(start, stop):
            total, _ = self.criterion(self.model, *batch(step))
            self.optimizer.zero_grad()
            total.backward()
            self.optimizer.step()
            losses.append(total.item())
        return losses

    def state(self) -> dict[str, Any]:
        return {name: getattr(self, name).state_dict() for name in ("model", "criterion", "optimizer")}


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Any) -> None:
    whole = Run()
    wanted = whole.train(0, 8)
    first = Run()
    losses = first.train(0, 5)
    torch.save(first.state(), tmp_path / "run.pt")
    second = Run()
    for name, state in torch.load(tmp_path / "run.pt").items():
        getattr(second, name).load_state_dict(state)
    assert losses + second.train(5, 8) == wanted
    assert second.criterion.step.item() == 8
    forgetful = Run()
    forgetful.model.load_state_dict(first.model.state_dict())
    assert forgetful.train(5, 8) != wanted[5:]  # the draws continue because the step is in the state


def test_the_criterion_counts_in_training_mode_only() -> None:
    criterion, model = gradreg.Criterion(None, gradreg.SpectReg(1.0)), make()
    first = criterion(model, *batch())[0].item()
    criterion.eval()(model, *batch())
    assert criterion.step.item() == 1
    assert criterion.train()(model, *batch())[0].item() != first
    assert criterion.step.item() == 2
    assert "SpectReg(1.0)" in repr(criterion)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_in_eval_mode_the_criterion_is_the_loss(mode: Any) -> None:
    model, (x, y) = make(), batch()
    criterion = gradreg.Criterion(reg=REG + gradreg.WeightDecay(1.0) + gradreg.SobolevReg(1.0), target=make(1)).eval()
    with mode():
        total, parts = criterion(model, x, y)
        assert total.requires_grad == torch.is_grad_enabled()
    wanted = torch.nn.functional.cross_entropy(model(x), y)
    assert total.item() == parts.loss.item() == pytest.approx(wanted.item(), rel=1e-12)
    assert [penalty.item() for penalty in parts.penalty] == [0.0] * 4
    torch.testing.assert_close(parts.outputs.clone(), model(x).detach())


def test_a_regularizer_in_the_place_of_the_loss_function_is_refused() -> None:
    with pytest.raises(InputTypeError, match=r"loss_fn must be a function .* Pass it as reg=: Criterion\(reg="):
        gradreg.Criterion(gradreg.SpectReg(0.01))


def test_every_argument_of_loss_is_an_argument_of_a_call() -> None:
    of_loss, of_call = (
        set(inspect.signature(function).parameters) for function in (gradreg.loss, gradreg.Criterion.forward)
    )
    assert of_call - {"self"} == of_loss - {"reg", "step", "loss_fn"}


def test_arguments_of_a_call_replace_those_of_the_criterion() -> None:
    model, (x, y) = make(), batch()
    reg = gradreg.SpectReg(0.5)

    def criterion(**options: Any) -> float:
        return gradreg.Criterion(reg=reg, seed=5, normalizer=3.0)(model, x, y, **options)[0].item()

    def wanted(**options: Any) -> float:
        return gradreg.loss(model, x, y, reg, step=0, **options)[0].item()

    assert criterion() == wanted(seed=5, normalizer=3.0)
    assert criterion(seed=6) == wanted(seed=6, normalizer=3.0)
    ids = torch.arange(6) + 9
    assert criterion(sample_ids=ids) == wanted(seed=5, normalizer=3.0, sample_ids=ids)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sample_id'"):
        criterion(sample_id=ids)


def test_outputs_positions_and_targets_are_arguments_too() -> None:
    torch.manual_seed(0)
    tokens = torch.nn.Linear(4, 7).double()
    x, y, weight = torch.randn(6, 5, 4).double(), torch.randint(7, (6, 5)), torch.rand(6, 5).double()
    y[:, 3:] = -100
    reg = gradreg.DataGrad(0.5) + gradreg.SobolevReg(0.1)

    def model(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"hidden": x, "logits": tokens(x)}

    def teacher(x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"logits": tokens(2 * x)}

    options: dict[str, Any] = {"outputs": "logits", "ignore_index": -100, "class_axis": -1, "target": teacher}
    wanted = gradreg.loss(model, x, y, reg, position_weight=weight, step=0, **options)[0].item()
    assert gradreg.Criterion(reg=reg, **options)(model, x, y, position_weight=weight)[0].item() == wanted
    assert gradreg.Criterion(reg=reg)(model, x, y, position_weight=weight, **options)[0].item() == wanted
