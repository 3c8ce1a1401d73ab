"""`check` in PyTorch: modules without a second derivative, and models that are as they were afterwards."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradreg_torch as gradreg
from gradreg_core.errors import DoubleBackwardError, InputError
from gradreg_core.spec import JacobianPenalty
from gradreg_torch.diagnose import explain

REG = gradreg.DataGrad(1.0)
X = torch.linspace(-1, 1, 20).reshape(4, 5)
Y = torch.tensor([0, 1, 2, 1])


class Flash(nn.Module):
    """Attention by the kernel that has no second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.project(x)[:, None]
        mixed = nn.functional.scaled_dot_product_attention(h, h, h)
        return self.head(mixed[:, 0].mean(1))


class Distance(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centres = nn.Parameter(torch.randn(4, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cdist(x, self.centres)


def test_check_names_the_module_without_a_second_derivative() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 6, 8)
    inner = nn.Sequential(nn.Linear(8, 8), Flash())
    report = gradreg.check(inner, x, Y, REG)
    assert not report.ok
    assert "1 (Flash) has no second derivative" in str(report)
    assert "sdpa_kernel(SDPBackend.MATH)" in str(report)
    with pytest.raises(DoubleBackwardError, match="no second derivative"):
        report.raise_if_failed()
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert gradreg.check(inner, x, Y, REG).ok
    doubled = gradreg.check(nn.Sequential(nn.Linear(8, 8), Distance(), nn.Linear(4, 3)), x[:, 0], Y, REG)
    assert "1 (Distance) has no second derivative" in str(doubled)


def test_check_passes_good_models_and_restores_them() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3))
    with_state = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU(), nn.Linear(4, 3))
    before = {name: value.clone() for name, value in with_state.state_dict().items()}
    generator = torch.random.get_rng_state()
    report = gradreg.check(with_state, X, Y, REG)
    assert report.ok, str(report)
    assert "couples the samples" in str(report)  # as a warning
    assert all(torch.equal(before[name], value) for name, value in with_state.state_dict().items())
    assert torch.equal(generator, torch.random.get_rng_state())
    for reg in (REG, gradreg.SpectReg(1.0), gradreg.SpectralNormReg(1.0), gradreg.WeightDecay(1.0)):
        report = gradreg.check(model, X, Y, reg)
        assert report.ok, str(report)
        report.raise_if_failed()
        assert str(report).startswith("gradreg check: passed")
    bad_labels = gradreg.check(model, X, Y + 5, REG)
    assert not bad_labels.ok
    with pytest.raises(InputError, match="labels must lie in"):
        bad_labels.raise_if_failed()


def test_check_passes_a_linear_model_whose_penalty_does_not_depend_on_the_input() -> None:
    report = gradreg.check(nn.Linear(5, 3), X, Y, gradreg.SpectReg(1.0))
    assert report.ok
    assert report.disagreement == 0


class Recomputed(nn.Sequential):
    """Layers that are computed a second time in the backward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(super().forward, x, use_reentrant=False)


def offloaded(x: torch.Tensor) -> torch.Tensor:
    with torch.autograd.graph.save_on_cpu():
        return x.relu()


class Offloaded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return offloaded(x)


RECOMPUTED = {
    "relu": nn.ReLU(),
    "in place": nn.ReLU(inplace=True),
    "elu": nn.ELU(),
    "prelu": nn.PReLU(),
    "layer norm": nn.LayerNorm(6),
    "within another": Recomputed(nn.Linear(6, 6), nn.ReLU()),
    "offloaded": Offloaded(),
}
SIDES = [gradreg.SpectReg(1.0), JacobianPenalty(1.0, projection=gradreg.gaussian(), side="input")]


@pytest.mark.sample(6)
@pytest.mark.parametrize("reg", SIDES, ids=["output side", "input side"])
@pytest.mark.parametrize("name", RECOMPUTED)
def test_check_passes_recomputed_parts(name: str, reg: Any) -> None:
    torch.manual_seed(0)
    part = Recomputed(nn.Linear(5, 6), RECOMPUTED[name], nn.Linear(6, 6))
    model = nn.Sequential(part, nn.Tanh(), nn.Linear(6, 3)).double()
    report = gradreg.check(model, X.double(), Y, reg)
    assert report.ok, str(report)
    assert not report.findings
    assert report.disagreement < 1e-6  # differences in float64 with Richardson's correction


@pytest.mark.parametrize("reg", SIDES, ids=["output side", "input side"])
def test_check_passes_compiled_parts(reg: Any) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(5, 6), nn.Sequential(nn.ReLU(), nn.Linear(6, 6), nn.LayerNorm(6)), nn.Linear(6, 3))
    model[1].compile(backend="eager")
    report = gradreg.check(model.double(), X.double(), Y, reg)
    assert report.ok, str(report)
    assert report.disagreement < 1e-6


@pytest.mark.parametrize("behind_a_function", [False, True])
def test_check_names_the_module_behind_those_that_write_in_place(behind_a_function: bool) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.Hardsigmoid(), nn.Linear(6, 3)]
    model = nn.Sequential(*layers)
    report = gradreg.check((lambda x: model(x)) if behind_a_function else model, X, Y, REG)
    assert not report.ok
    assert "3 (Hardsigmoid) has no second derivative" in str(report)
    assert gradreg.check(nn.Sequential(*layers[:3], nn.Sigmoid(), layers[4]), X, Y, REG).ok  # what it advises
    assert gradreg.check(model, X, Y, gradreg.DataGrad(1.0, at="3")).ok  # and its other advice


def test_a_mask_from_the_zeros_of_the_input() -> None:
    torch.manual_seed(0)
    layer, head = nn.Linear(6, 5).double(), nn.Linear(5, 3).double()
    x = torch.linspace(-1, 1, 120, dtype=torch.float64).reshape(4, 5, 6)
    x[0, 3:] = x[2, 1:] = 0.0

    def masked(x: torch.Tensor) -> torch.Tensor:
        return head((torch.tanh(layer(x)) * (x != 0).any(-1, keepdim=True)).sum(1))

    report = gradreg.check(masked, x, None, gradreg.FrobReg(1.0))
    assert report.ok, report
    assert ["jumps where zeros" in finding.problem for finding in report.findings] == [True]


def test_a_compiled_model_that_gave_its_buffers_away_has_the_remedy_of_compiled_models():
    """Which of two errors PyTorch raises depends on what the process compiled before."""
    message = "This backward function was compiled with non-empty donated buffers which requires create_graph=False"
    explained = explain("loss", RuntimeError(message))
    assert isinstance(explained, DoubleBackwardError)
    assert "Give gradreg the module that torch.compile was given" in str(explained)
