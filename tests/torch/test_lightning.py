"""Lightning's Trainer with a criterion in `training_step`, on digits, beside double backward written by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import ModelCheckpoint

import gradreg_torch as gradreg
from lightning_digits import Digits, digits, loader, parameters, trainer


class Validated(Digits):
    def validation_step(self, batch: Any, index: int) -> None:
        assert torch.is_inference_mode_enabled()
        _, parts = self.criterion(self, *batch)
        self.log_dict({f"val_{name}": value for name, value in parts.log().items()})


def test_the_first_gradient_is_that_of_a_loop_by_hand() -> None:
    reg = gradreg.DataGrad(0.5) + gradreg.R1(0.1, at="net.1", projection=gradreg.ones())
    module = Digits(reg)
    fit = trainer(accumulate_grad_batches=3, max_steps=1)
    fit.fit(module, loader(12, 4))
    x, y = digits(12)
    x.requires_grad_()
    net = Digits(reg).net
    hidden = net[1](net[0](x))
    outputs = net[2](hidden)
    losses = F.cross_entropy(outputs, y, reduction="none")
    (of_loss,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    (of_outputs,) = torch.autograd.grad(outputs.sum(), hidden, create_graph=True)
    penalties = 0.5 * of_loss.square().sum(1) + 0.05 * of_outputs.square().sum(1)
    wanted = torch.autograd.grad((losses + penalties).mean(), list(net.parameters()))
    torch.testing.assert_close(module.gradients, list(wanted), rtol=1e-12, atol=1e-15)
    assert {"loss", "penalty", "penalty/DataGrad", "penalty/R1", "total"} <= set(fit.logged_metrics)


def test_draws_count_on_over_accumulated_batches_and_a_short_last_step() -> None:
    whole, parts = Digits(gradreg.SpectReg(0.2)), Digits(gradreg.SpectReg(0.2))
    trainer(max_steps=4).fit(whole, loader(24, 12))
    trainer(max_steps=4, accumulate_grad_batches=3).fit(parts, loader(24, 4))
    torch.testing.assert_close(parameters(parts), parameters(whole), rtol=1e-10, atol=1e-13)
    short = Digits(gradreg.SpectReg(0.2))
    trainer(max_steps=4, accumulate_grad_batches=2).fit(short, loader(12, 4))  # steps of two batches and of one
    assert short.global_step == 4
    assert (short.criterion.step, short.criterion.samples_of_step) == (3, 4)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    reg = gradreg.SpectReg(lambda step: 0.1 * (1 + step)) + gradreg.DataGrad(0.5, every=3)
    whole, resumed = Digits(reg), Digits(reg)

    def run() -> Any:
        saving = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=2)
        return trainer(max_steps=5, accumulate_grad_batches=2, enable_checkpointing=True, callbacks=[saving])

    run().fit(whole, loader(16, 4))
    run().fit(resumed, loader(16, 4), ckpt_path=tmp_path / "step=2.ckpt")
    assert torch.equal(parameters(resumed), parameters(whole))
    assert resumed.criterion.step == whole.criterion.step == 4


def test_validation_in_inference_mode_is_the_loss() -> None:
    module = Validated(gradreg.SpectReg(0.2) + gradreg.WeightDecay(0.1))
    (values,) = trainer().validate(module, loader(24, 24), verbose=False)
    x, y = digits(24)
    assert values["val_loss"] == values["val_total"] == pytest.approx(F.cross_entropy(module(x), y).item(), rel=1e-6)
    assert values["val_penalty"] == 0
    assert module.criterion.step == 0


def test_half_precision() -> None:
    values = []
    for precision in ("bf16-mixed", "32-true"):
        fit = trainer(precision=precision, max_steps=1)
        fit.fit(Digits(gradreg.SpectReg(0.2), torch.float32), loader(12, 12, torch.float32))
        values.append(fit.logged_metrics["penalty"].item())
    # bfloat16 has 8 bits; the squared gradient passes through three layers.
    assert values[0] == pytest.approx(values[1], rel=0.03)
    assert values[0] != values[1]
