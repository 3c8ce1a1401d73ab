"""`check` in PyTorch: modules without a second derivative, and models that are as they were afterwards."""

import pytest
import torch
from torch import nn

import gradreg_torch as gradreg
from gradreg_core.errors import DoubleBackwardError, InputError

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
