"""`Criterion`: it counts its steps, resumes, and takes the arguments of `loss`."""

import inspect
from typing import Any

import pytest
import torch

import gradreg_torch as gradreg
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.results import Parts
from torch_cases import REG, batch, gradients, make


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
    assert of_call - {"self"} == of_loss - {"reg", "loss_fn"}


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


def test_accumulated_parts_have_the_gradient_of_the_whole_batch() -> None:
    model, (x, y) = make(), batch(size=12)
    whole, parts = gradreg.Criterion(reg=REG), gradreg.Criterion(reg=REG, accumulate=3)
    for step in range(2):  # the draws of the second step differ
        wanted = gradients(whole(model, x, y)[0], model)
        totals = [parts(model, part, labels)[0] / 3 for part, labels in zip(x.split(4), y.split(4), strict=True)]
        torch.testing.assert_close(gradients(sum(totals[1:], totals[0]), model), wanted, rtol=1e-12, atol=1e-15)
        assert parts.step == whole.step == step + 1


def test_a_loop_that_counts_its_steps_passes_them() -> None:
    model, (x, y) = make(), batch(size=10)
    criterion = gradreg.Criterion(reg=REG)
    wanted = gradients(gradreg.loss(model, x, y, REG, step=7)[0], model)
    totals = [criterion(model, x[rows], y[rows], step=7)[0] * len(rows) / 10 for rows in torch.arange(10).split(4)]
    torch.testing.assert_close(gradients(sum(totals[1:], totals[0]), model), wanted, rtol=1e-12, atol=1e-15)
    assert (criterion.step, criterion.samples_of_step) == (7, 10)
    assert criterion(model, x, y, step=8)[0] == gradreg.loss(model, x, y, REG, step=8)[0]
    assert criterion.eval()(model, x, y, step=8)[0] == gradreg.loss(model, x, y, None)[0]


def test_a_resumed_run_goes_on_within_a_step() -> None:
    model, (x, y) = make(), batch(size=9)
    first = gradreg.Criterion(reg=REG, accumulate=3)
    first(model, x[:3], y[:3])
    second = gradreg.Criterion(reg=REG, accumulate=3)
    second.load_state_dict(first.state_dict())
    assert first(model, x[3:6], y[3:6])[0] == second(model, x[3:6], y[3:6])[0]
    before = gradreg.Criterion(reg=REG)
    before.load_state_dict({"step": torch.tensor(4)})  # as saved when the step was all that was counted
    assert before(model, x, y)[0] == gradreg.loss(model, x, y, REG, step=4)[0]


def test_ranks_share_the_numbers_of_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = make(), batch(size=12)
    wanted = gradients(gradreg.loss(model, x, y, REG, step=0)[0], model)
    sums = torch.zeros_like(wanted)
    for rank in range(2):
        monkeypatch.setattr("gradreg_torch.criterion._place", lambda rank=rank: (rank, 2))
        criterion = gradreg.Criterion(reg=REG, accumulate=2, sample_ids="rank")
        for call in range(2):
            rows = torch.arange(12).split(3)[2 * call + rank]
            sums += gradients(criterion(model, x[rows], y[rows])[0], model) / 4
    torch.testing.assert_close(sums, wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.slow
def test_counting_compiles_and_vectorizes() -> None:
    model, (x, y) = make(), batch(size=6)
    counted = gradreg.Criterion(reg=REG, accumulate=2, sample_ids="rank")
    compiled = torch.compile(lambda x, y: counted(model, x, y)[0], fullgraph=True, backend="eager")
    eager = gradreg.Criterion(reg=REG, accumulate=2, sample_ids="rank")
    for _ in range(3):
        torch.testing.assert_close(compiled(x, y), eager(model, x, y)[0], rtol=1e-12, atol=0)
    assert counted.state_dict() == eager.state_dict()
    params, buffers = torch.func.stack_module_state([make(0), make(1)])
    ensemble = gradreg.Criterion(reg=REG, accumulate=2, sample_ids="rank")

    def member(params: Any, buffers: Any, seed: Any) -> torch.Tensor:
        total, _ = ensemble(lambda x: torch.func.functional_call(model, (params, buffers), (x,)), x, y, seed=seed)
        return total

    for call in range(2):
        totals = torch.func.vmap(member)(params, buffers, torch.tensor([0, 1]))
        wanted = gradreg.loss(make(1), x, y, REG, step=0, seed=1, sample_ids=torch.arange(6) + 6 * call)[0]
        torch.testing.assert_close(totals[1], wanted, rtol=1e-12, atol=0)
    assert ensemble.step == 1


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match=r"sample_ids must be None or 'rank'.*argument of the call"):
        gradreg.Criterion(sample_ids="ranks")
    with pytest.raises(InputTypeError, match=r"Criterion: accumulate must be an integer of at least 1, got 2\.5"):
        gradreg.Criterion(accumulate=2.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1, got 0"):
        gradreg.Criterion(accumulate=0)


def test_the_scalars_of_the_parts_have_names() -> None:
    model, (x, y) = make(), batch()
    total, parts = gradreg.loss(model, x, y, REG + gradreg.SpectReg(0.1, seed=4), step=0)
    by_name = parts.log(REG + gradreg.SpectReg(0.1, seed=4))
    assert list(by_name) == [
        "loss", "penalty", "penalty/DataGrad", "penalty/SpectReg 1", "penalty/SpectReg 2", "total"
    ]  # fmt: skip
    assert by_name["total"] == total
    assert by_name["penalty"] == parts.penalty[0] + parts.penalty[1] + parts.penalty[2]
    assert by_name["penalty/SpectReg 2"] == parts.penalty[2]
    assert parts.penalty[2].requires_grad
    assert not any(value.requires_grad for value in by_name.values())
    assert float(by_name["penalty"]) > 0  # without PyTorch's warning, which would fail the test
    assert list(parts.log()) == ["loss", "penalty", "total"]
    assert Parts(2.0, (), None).log() == {"loss": 2.0, "penalty": 0.0, "total": 2.0}
    with pytest.raises(InputError, match="has 2 terms, and these parts have 3"):
        parts.log(REG)
