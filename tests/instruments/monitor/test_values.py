"""Recorded values, against a hand-written double backward in float64."""

import copy
import math
import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gradreg_torch as gradreg
from gradreg_core import DataGrad, FrobReg, Inputs, SpectReg, tap
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_monitor import Monitor
from gradreg_numpy.networks import Model, initialize
from gradreg_torch.networks import apply

EXACT = 1e-6
"""Relative: sums of squares are taken in float32 where arrays are; in float64 the rest is far below."""
KEYS = {"loss", "penalty", "jacobian/frobenius", "jacobian/spectral", "jacobian/loss_gradient"}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3))
    return nn.Sequential(*layers).double()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 6, generator=generator, dtype=torch.float64), torch.arange(5) % 3


def by_hand(model: nn.Module) -> dict[str, float]:
    """Of 2 * DataGrad + 0.5 * FrobReg in evaluation mode."""
    model = copy.deepcopy(model).eval()
    x, y = batch()
    x.requires_grad_()
    logits = model(x)
    losses = F.cross_entropy(logits, y, reduction="none")
    (slope,) = torch.autograd.grad(losses.sum(), x, create_graph=True)
    rows = [torch.autograd.grad(logits[:, k].sum(), x, create_graph=True)[0] for k in range(3)]
    jacobian = torch.stack(rows, 1)
    terms = 2.0 * slope.square().sum(1).mean(), 0.5 * jacobian.square().sum((1, 2)).mean()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    of_penalty = torch.autograd.grad(sum(terms), parameters, retain_graph=True, materialize_grads=True)
    p = torch.cat([part.flatten() for part in of_penalty])
    t = p + torch.cat([part.flatten() for part in torch.autograd.grad(losses.mean(), parameters)])
    return {
        "loss": losses.mean().item(),
        "penalty": sum(terms).item(),
        "penalty/DataGrad": terms[0].item(),
        "penalty/FrobReg": terms[1].item(),
        "jacobian/frobenius": torch.linalg.matrix_norm(jacobian).mean().item(),
        "jacobian/spectral": torch.linalg.matrix_norm(jacobian, 2).mean().item(),
        "jacobian/loss_gradient": slope.norm(dim=1).mean().item(),
        "gradient/share": (p.norm() / t.norm()).item(),
        "gradient/cosine": (p @ t / p.norm() / t.norm()).item(),
    }


REG = DataGrad(2.0) + FrobReg(0.5)


def test_the_values_are_those_by_hand() -> None:
    model = network()
    assert Monitor(*batch(), REG)(model, 7) == pytest.approx(by_hand(model), rel=EXACT)


def test_a_place_is_measured_instead_of_the_input() -> None:
    model, (x, y) = network().eval(), batch()

    def tapped(x: torch.Tensor) -> torch.Tensor:
        return model[1:](tap("hidden", model[0](x)))

    values = Monitor(x, y, at="hidden", projections=3)(tapped, 0)
    wanted = gradreg.measure(model[1:], model[0](x).detach(), y)
    for name in ("frobenius", "spectral", "loss_gradient"):
        assert values[f"jacobian/{name}"] == pytest.approx(getattr(wanted, name).mean().item(), rel=1e-6)


def test_terms_count_as_they_act_on_average() -> None:
    model = network()
    often = Monitor(*batch(), DataGrad(2.0, every=4, fraction=0.4) + FrobReg(lambda step: step / 2, every=3))
    assert often(model, 1) == pytest.approx(by_hand(model), rel=EXACT)


def test_every_step_that_is_divisible_is_recorded_and_written() -> None:
    model, seen = network(), []
    monitor = Monitor(*batch(), every=3, gradients=False, writers=lambda step, values: seen.append((step, values)))
    returned = [monitor(model, torch.tensor(step) if step % 2 else np.int64(step)) for step in range(7)]
    assert [step for step, values in enumerate(returned) if values is not None] == [0, 3, 6]
    assert [record["step"] for record in monitor.records] == [step for step, _ in seen] == [0, 3, 6]
    assert set(seen[0][1]) == KEYS - {"penalty"}
    assert monitor.records[0]["seconds"] > 0


class Counting(nn.Module):
    """Counts its calls, and draws from every generator."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        noise = random.random() + np.random.random() + torch.rand(()).item()  # noqa: NPY002
        return self.inner(x) + 1e-3 * noise


@pytest.mark.parametrize("evaluation", [True, False])
@pytest.mark.parametrize("kind", ["module", "function", "no_grad", "inference"])
def test_the_model_and_the_generators_are_left_as_they_are(kind: str, evaluation: bool) -> None:
    model = Counting()
    model.inner[1].eval()  # frozen by its owner
    before = copy.deepcopy(model.state_dict())
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    mode = {"no_grad": torch.no_grad, "inference": torch.inference_mode}.get(kind, torch.enable_grad)
    monitor = Monitor(*batch(), REG, evaluation=evaluation)
    with mode():
        values = monitor((lambda x: model(x)) if kind == "function" else model, 0)
    assert values["gradient/share"] > 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [module.training for module in model.inner] == [True, False, True, True, True]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_the_mode_as_it_is_has_the_masks_and_the_statistics_of_the_batch() -> None:
    model = network()
    values = Monitor(*batch(), REG, evaluation=False)(model, 0)
    assert values["loss"] != pytest.approx(by_hand(model)["loss"], rel=1e-3)


def test_wrappers_are_looked_through() -> None:
    model = network()
    compiled = torch.compile(model, backend="eager")
    assert Monitor(*batch(), REG)(nn.DataParallel(compiled), 0) == pytest.approx(by_hand(model), rel=EXACT)


def test_parameters_that_do_not_train_have_no_part_in_the_gradient() -> None:
    model = network()
    whole = by_hand(model)["gradient/share"]
    model[0].requires_grad_(False)
    wanted = by_hand(model)["gradient/share"]
    assert Monitor(*batch(), REG, jacobian=False)(model, 0)["gradient/share"] == pytest.approx(wanted, rel=EXACT)
    assert wanted != pytest.approx(whole, rel=1e-2)
    model.requires_grad_(False)
    assert "gradient/share" not in Monitor(*batch(), REG, jacobian=False)(model, 0)


def test_without_labels_there_is_no_loss() -> None:
    values = Monitor(batch()[0], None, FrobReg(0.5))(network(), 0)
    wanted = by_hand(network())
    assert values["penalty"] == pytest.approx(wanted["penalty/FrobReg"], rel=EXACT)
    assert set(values) == {"penalty", "jacobian/frobenius", "jacobian/spectral", "gradient/penalty"}


def test_a_penalty_without_gradient_has_the_share_0_and_no_direction() -> None:
    values = Monitor(*batch(), SpectReg(0.0))(network(), 0)
    assert values["gradient/share"] == 0
    assert math.isnan(values["gradient/cosine"])


def test_arguments_of_the_calls_are_passed_on() -> None:
    model, (x, y) = network().eval(), batch()
    values = Monitor(
        Inputs(x),
        y,
        DataGrad(1.0),
        loss_fn=lambda outputs, y: 3 * F.cross_entropy(outputs, y, reduction="none"),
        outputs=lambda returned: returned[:, :3],
        sample_weight=torch.tensor([1.0, 0, 0, 0, 0], dtype=torch.float64),
    )(lambda x: torch.cat([model(x), x], 1), 0)
    with torch.no_grad():
        assert values["loss"] == pytest.approx(3 * F.cross_entropy(model(x[:1]), y[:1]).item(), rel=EXACT)
    assert values["penalty"] == pytest.approx(gradreg.penalty(model, x[:1], y[:1], DataGrad(9.0)).item(), rel=EXACT)


def test_the_reference_has_the_same_values_but_hides_its_parameters() -> None:
    net = Network((4,), (Dense(5), Activation("tanh"), Dense(3)))
    params = {path: array.astype(np.float64) for path, array in initialize(net, 0).items()}
    x, y = np.random.default_rng(0).normal(size=(6, 4)), np.arange(6) % 3
    ours = Monitor(x, y, REG)(Model(net, params), 0)
    tensors = {path: torch.tensor(array) for path, array in params.items()}
    wanted = Monitor(torch.tensor(x), torch.tensor(y), REG)(lambda x: apply(net, tensors, x), 0)
    assert {name: wanted[name] for name in ours} == pytest.approx(ours, rel=EXACT)
    assert set(ours) == KEYS | {"penalty/DataGrad", "penalty/FrobReg"}


def test_arrays_of_numpy_wait_for_the_framework() -> None:
    x, y = batch()
    monitor = Monitor({"x": x.numpy()}, y.numpy(), sample_weight=np.ones(5))
    monitor.move(torch.as_tensor, "torch")
    model = network()
    assert monitor(lambda inputs: model(inputs["x"]), 0)["loss"] == pytest.approx(by_hand(model)["loss"], rel=EXACT)


@pytest.mark.parametrize(
    ("options", "step", "kind", "message"),
    [
        ({"reg": 0.1}, 0, InputTypeError, "reg must be a regularizer"),
        ({"every": 0}, 0, InputError, "every must be an integer of at least 1"),
        ({"every": None}, 0, InputTypeError, "every must be an integer"),
        ({"projections": 0}, 0, InputError, "projections must be"),
        ({"writers": [3]}, 0, InputTypeError, "a writer is called as"),
        ({}, 0.5, InputTypeError, "step must be an integer that can be read"),
        ({}, "1", InputTypeError, "step must be an integer that can be read"),
    ],
)
def test_what_does_not_fit_is_refused(options: Any, step: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=f"Monitor: {message}"):
        Monitor(*batch(), **options)(network(), step)
