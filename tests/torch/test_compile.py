"""Calls inside torch.compile: no graph breaks, few compilations, the same values."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import gradreg_torch as gradreg
from gradreg_core.errors import DoubleBackwardError
from gradreg_core.spec import JacobianPenalty
from torch_cases import REG, batch, gradients, make


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_step_that_is_an_int_has_a_program_without_the_penalty() -> None:
    model, (x, y), sizes = make(), batch(), []

    def counting(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        def run(*arrays: Any) -> Any:
            sizes.append(len(graph.graph.nodes))
            return graph.forward(*arrays)

        return run

    reg = gradreg.SpectReg(0.5, every=4) + gradreg.DataGrad(0.25, every=2)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, y, reg, step: gradreg.loss(model, x, y, reg, step=step)[0], fullgraph=True, backend=counting
    )
    compiled(x, y, None, 0)
    plain = sizes.pop()
    programs = set()
    for step in (*range(10), 2**40 + 1, 2**40):
        value, wanted = compiled(x, y, reg, step), gradreg.loss(model, x, y, reg, step=step)[0]
        torch.testing.assert_close(gradients(value, model), gradients(wanted, model))
        size = sizes.pop()
        programs.add(size)
        assert size > plain + 20 if step % 2 == 0 else size < plain + 5  # two zeros, and the step, an input
    assert len(programs) == 4, "step 0, where the step is a constant; both terms; one; none"


def test_labels_out_of_range_that_cannot_be_read_turn_into_nan() -> None:
    model, (x, labels) = make(), batch()
    labels[-1] = 7
    compiled = torch.compile(lambda x: gradreg.loss(model, x, labels, None)[0], fullgraph=True, backend="aot_eager")
    assert math.isnan(compiled(x).item())


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["output", "input"])
def test_buffers_are_written_as_in_eager_mode(kind: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()
    other = copy.deepcopy(model)
    reg = JacobianPenalty(1.0, projection=gradreg.gaussian(), side=kind)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x, y: gradreg.loss(model, x, y, reg, batch_norm="allow")[0], fullgraph=True, backend="aot_eager"
    )
    for step in range(2):
        value = compiled(*batch(step))
        wanted = gradreg.loss(other, *batch(step), reg, batch_norm="allow")[0]
        torch.testing.assert_close(gradients(value, model), gradients(wanted, other))
    assert model[1].num_batches_tracked == 2
    for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.slow
def test_other_weights_compile_without_a_graph_break() -> None:
    """Dynamo takes the second value of a weight for a symbol."""
    model, (x, y) = make(), batch()
    torch._dynamo.reset()
    compiled = torch.compile(lambda reg: gradreg.loss(model, x, y, reg)[0], fullgraph=True, backend="eager")
    for weight in (0.5, 0.25, 3.0):
        reg = gradreg.SpectReg(weight) + gradreg.R1(2 * weight)
        torch.testing.assert_close(compiled(reg), gradreg.loss(model, x, y, reg)[0])


@pytest.mark.slow
def test_a_compiled_model_is_refused_at_the_call_and_the_remedies_work() -> None:
    model, (x, y) = make(), batch()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager")
    message = (
        r"no second derivative .* \(compiled\._orig_mod\), and compile the function that calls gradreg, or compile"
    )
    for call in (gradreg.loss, gradreg.penalty):
        with pytest.raises(DoubleBackwardError, match=message):
            call(compiled, x, y, REG, batch_norm="allow")
    assert "compiled._orig_mod" in str(gradreg.check(compiled, x, y, REG))
    wanted = gradients(gradreg.loss(model, x, y, REG)[0], model)
    around = torch.compile(lambda x: gradreg.loss(compiled._orig_mod, x, y, REG)[0], backend="aot_eager")
    torch.testing.assert_close(gradients(around(x), model), wanted)
    by_eager = torch.compile(model.forward, backend="eager")
    torch.testing.assert_close(gradients(gradreg.loss(by_eager, x, y, REG)[0], model), wanted)
    moved = JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input", method="difference")
    by_difference = gradients(gradreg.loss(compiled, x, y, moved, batch_norm="allow")[0], model)
    torch.testing.assert_close(by_difference, gradients(gradreg.loss(model, x, y, moved)[0], model))
    with torch.no_grad():  # values need no second derivative
        torch.testing.assert_close(
            gradreg.loss(compiled, x, y, REG, batch_norm="allow")[0], gradreg.loss(model, x, y, REG)[0]
        )


@pytest.mark.slow
def test_batch_normalisation_behind_a_plain_function_is_refused() -> None:
    net, (x, y) = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double(), batch()

    def total(model: Any, x: Any) -> torch.Tensor:
        return gradreg.loss(model, x, y, REG, batch_norm="allow")[0]

    outside = lambda x: net(x)  # noqa: E731
    models = (lambda: outside, lambda: lambda x: net(x) * 2, lambda: net.forward, lambda: partial(net))
    for made in models:
        torch.compiler.reset()
        compiled = torch.compile(lambda x, made=made: total(made(), x), backend="eager")
        with pytest.raises(Exception, match=r"around 1 \(BatchNorm1d\) in training mode.*Pass the module itself"):
            compiled(x)
    net.eval()
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(lambda x: total(lambda x: net(x), x), backend="eager")(x), total(net, x))
