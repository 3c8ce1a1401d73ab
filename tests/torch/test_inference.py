"""Calls without gradients: torch.inference_mode(), torch.no_grad(), and tensors that were made there."""

from typing import Any

import pytest
import torch
from torch import Tensor

import gradreg_torch as gradreg
from gradreg_core.errors import InputError
from gradreg_core.spec import JacobianPenalty
from torch_cases import REG, batch, gradients, make

TERMS = REG + JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input") + gradreg.SpectReg(1.0, at="1")


@pytest.mark.parametrize("reg", [None, REG, TERMS], ids=["no terms", "two terms", "all kinds"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_values_are_those_of_training_without_a_gradient(mode: Any, reg: Any) -> None:
    model, (x, y) = make(), batch()
    wanted, of_training = gradreg.loss(model, x, y, reg)
    with mode():
        total, parts = gradreg.loss(model, x * 1.0, y * 1, reg)
        arrays = [total, parts.loss, *parts.penalty, parts.outputs]
        assert not any(array.requires_grad for array in arrays)
        came = [array.clone() for array in arrays]
        measured = gradreg.measure(model, x * 1.0, y)
    for array, expected in zip(
        came, [wanted, of_training.loss, *of_training.penalty, of_training.outputs], strict=True
    ):
        torch.testing.assert_close(array, expected.detach(), rtol=1e-12, atol=0)
    for array, expected in zip(measured, gradreg.measure(model, x, y), strict=True):
        torch.testing.assert_close(array, expected)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_loss_alone_records_no_graph(mode: Any) -> None:
    model, (x, y) = make(), batch()
    seen = []

    def watched(x: Tensor) -> Tensor:
        seen.append((outputs := model(x)).requires_grad)
        return outputs

    with mode():
        gradreg.loss(watched, x, y, None)
        gradreg.loss(watched, x, y, gradreg.SpectReg(1.0))
    gradreg.loss(watched, x, y, None)
    assert seen == [False, True, True]


def test_tensors_made_in_inference_mode_train() -> None:
    model, (x, y) = make(), batch()
    weight, ids = torch.rand(6).double(), torch.arange(6)
    wanted = gradreg.loss(model, x, y, TERMS, sample_weight=weight, sample_ids=ids)[0]
    with torch.inference_mode():
        made: list[Tensor] = [x * 1.0, y * 1, weight * 1.0, ids * 1]
    total = gradreg.loss(model, *made[:2], TERMS, sample_weight=made[2], sample_ids=made[3])[0]
    torch.testing.assert_close(gradients(total, model), gradients(wanted, model))


def test_parameters_made_in_inference_mode_are_refused_with_a_remedy() -> None:
    x, y = batch()
    with torch.inference_mode():
        model = make()
    with pytest.raises(
        InputError, match=r"created in torch\.inference_mode\(\).* Create it outside, or pass tensor\.clone\(\)"
    ):
        gradreg.loss(model, x, y, REG)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(parameter.clone()))
    total, _ = gradreg.loss(model, x, y, REG)
    torch.testing.assert_close(total, gradreg.loss(make(), x, y, REG)[0])
