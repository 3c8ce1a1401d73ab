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
    criterion.eval()
    second, again = criterion(model, *batch())[0].item(), criterion(model, *batch())[0].item()
    assert second == again != first
    assert criterion.step.item() == 1
    assert "SpectReg(1.0)" in repr(criterion)


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
    criterion = gradreg.Criterion(reg=reg, seed=5, normalizer=3.0).eval()

    def wanted(**options: Any) -> float:
        return gradreg.loss(model, x, y, reg, step=0, **options)[0].item()

    assert criterion(model, x, y)[0].item() == wanted(seed=5, normalizer=3.0)
    assert criterion(model, x, y, seed=6)[0].item() == wanted(seed=6, normalizer=3.0)
    ids = torch.arange(6) + 9
    assert criterion(model, x, y, sample_ids=ids)[0].item() == wanted(seed=5, normalizer=3.0, sample_ids=ids)
    with pytest.raises(TypeError, match="unexpected keyword argument 'sample_id'"):
        criterion(model, x, y, sample_id=ids)
