"""Calls inside torch.compile: no graph breaks, few compilations, the same values."""

import math
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import gradreg_torch as gradreg
from torch_cases import REG, batch, gradients, make


def test_ten_steps_compile_once() -> None:
    model = make()
    reg = gradreg.DataGrad(lambda step: 0.125 * (step + 1)) + gradreg.SpectReg(0.5, every=3)
    counter = CompileCounterWithBackend("aot_eager")

    def total(x: torch.Tensor, y: torch.Tensor, step: Any) -> torch.Tensor:
        return gradreg.loss(model, x, y, reg, step=step)[0]

    torch._dynamo.reset()
    compiled = torch.compile(total, fullgraph=True, backend=counter)
    for step in range(10):
        x, y = batch(step)
        value, wanted = compiled(x, y, torch.tensor(step)), total(x, y, step)
        assert value.item() == pytest.approx(wanted.item(), rel=1e-12)
        torch.testing.assert_close(gradients(value, model), gradients(wanted, model))
    assert counter.frame_count == 1
    criterion = gradreg.Criterion(None, reg)
    counter.frame_count = 0
    stepping = torch.compile(lambda x, y: criterion(model, x, y)[0], fullgraph=True, backend=counter)
    values = [stepping(*batch(step)).item() for step in range(10)]
    assert values == pytest.approx([total(*batch(step), step).item() for step in range(10)], rel=1e-12)
    assert counter.frame_count == 1


@pytest.mark.parametrize("convert", [int, torch.tensor])
def test_steps_and_seeds_of_the_call_compile_at_most_twice(convert: Any) -> None:
    """Dynamo first takes an int for a constant; from the second value on it is an input."""
    model, counter = make(), CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, y, step, seed: gradreg.loss(model, x, y, REG, step=step, seed=seed)[0],
        fullgraph=True,
        backend=counter,
    )
    for step, seed in enumerate((0, 1, 7, 2**40, 2**62)):
        wanted = gradreg.loss(model, *batch(), REG, step=step, seed=seed)[0].item()
        assert compiled(*batch(), convert(step), convert(seed)).item() == pytest.approx(wanted, rel=1e-12)
    assert counter.frame_count <= 2


def test_labels_out_of_range_that_cannot_be_read_turn_into_nan() -> None:
    model, (x, labels) = make(), batch()
    labels[-1] = 7
    compiled = torch.compile(lambda x: gradreg.loss(model, x, labels, None)[0], fullgraph=True, backend="aot_eager")
    assert math.isnan(compiled(x).item())


def test_layers_have_no_names_inside_a_compiler_and_taps_have() -> None:
    model, (x, y) = make(), batch()
    reg = gradreg.DataGrad(1.0, at="0")
    compiled = torch.compile(lambda x: gradreg.loss(model, x, y, reg)[0], fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"mark the activation in the model: h = gradreg\.tap\('0', h\)"):
        compiled(x)

    def tapped(x: torch.Tensor) -> torch.Tensor:
        return model[1:](gradreg.tap("0", model[0](x)))

    torch._dynamo.reset()
    compiled = torch.compile(lambda x: gradreg.loss(tapped, x, y, reg)[0], fullgraph=True, backend="aot_eager")
    wanted = gradreg.loss(model, x, y, reg)[0]
    torch.testing.assert_close(gradients(compiled(x), model), gradients(wanted, model))
