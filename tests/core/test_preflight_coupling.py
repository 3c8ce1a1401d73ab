"""The pre-flight check finds samples that are coupled by what happens, whatever couples them, and says how."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow as tf
import torch
import torch.nn.functional as F
from torch import nn

import gradreg_jax
import gradreg_tensorflow
import gradreg_torch
from gradreg_core.errors import BatchNormError
from gradreg_core.preflight import CheckReport
from gradreg_core.presets import DataGrad, FrobReg, SpectReg

RANDOM = np.random.default_rng(3)
X = RANDOM.normal(size=(6, 5))
Y = np.array([0, 1, 2, 0, 1, 2])
FIRST, LAST = RANDOM.normal(size=(5, 4)) / 2, RANDOM.normal(size=(4, 3)) / 2
RING = np.roll(np.eye(6), 1, 1) / 2 + np.eye(6)
"""Each node of a graph hears from the next one."""


def tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array)


def torch_dense(between: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    weight = nn.Parameter(tensor(FIRST))
    return lambda x: between((x @ weight).tanh()) @ tensor(LAST)


def deviation_in_torch(h: torch.Tensor) -> torch.Tensor:
    """The statistic of a minibatch that critics append."""
    return h * (1 + h.std(0).mean())


STATISTICS: dict[str, tuple[Any, str]] = {
    "F.batch_norm": (torch_dense(lambda h: F.batch_norm(h, None, None, training=True)), "All depend on all"),
    "standard deviation": (torch_dense(deviation_in_torch), "All depend on all"),
    "softmax over the batch": (torch_dense(lambda h: h * h.softmax(0)), "All depend on all"),
    "graph": (torch_dense(lambda h: tensor(RING) @ h), "Some depend on some"),
    "cumulative sum": (torch_dense(lambda h: h.cumsum(0)), "Each depends on those before it"),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_coupled_samples_are_found_and_described(name: str) -> None:
    model, cause = STATISTICS[name]
    for reg in (SpectReg(1.0), SpectReg(1.0, side="input")):
        report = gradreg_torch.check(model, tensor(X), tensor(Y), reg)
        assert report.ok, str(report)
        (finding,) = report.findings
        assert finding.level == "warning"
        assert "depends on other samples of the batch" in finding.problem
        assert cause in finding.problem, finding.problem
        assert "stacked rows" in finding.problem


def test_the_strength_is_that_of_the_jacobian() -> None:
    def graph(x: torch.Tensor) -> torch.Tensor:
        return tensor(RING) @ x @ tensor(FIRST)

    # Every node hears its neighbour half as loudly as itself, whatever the weights.
    weight = nn.Parameter(torch.ones((), dtype=torch.float64))
    (finding,) = gradreg_torch.check(lambda x: graph(x) * weight, tensor(X), None, FrobReg(1.0)).findings
    assert "sample 0 reaches 1 of 5 others, sample 3 reaches 1 of 5 others, sample 5 reaches 1 of 5" in finding.problem
    assert "50% as strongly as on itself" in finding.problem


def in_jax(statistics: bool) -> Any:
    def model(x: jax.Array) -> jax.Array:
        h = jnp.tanh(x @ FIRST)
        return (jax.nn.standardize(h, 0) if statistics else h) @ LAST

    return model


def in_tensorflow(statistics: bool) -> Any:
    first = tf.Variable(FIRST)

    def model(x: tf.Tensor) -> tf.Tensor:
        h = tf.tanh(x @ first)
        return (h * tf.nn.softmax(h, 0) if statistics else h) @ LAST

    return model


@pytest.mark.slow
@pytest.mark.parametrize("statistics", [True, False])
def test_coupled_samples_are_found_in_jax_and_tensorflow(statistics: bool) -> None:
    reports = [
        gradreg_jax.check(in_jax(statistics), jnp.asarray(X, jnp.float32), Y, SpectReg(1.0)),
        gradreg_tensorflow.check(in_tensorflow(statistics), tf.constant(X), Y, SpectReg(1.0)),
    ]
    for report in reports:
        assert report.ok, str(report)
        assert ("All depend on all" in str(report)) is statistics, str(report)


class Recurrent(nn.Module):
    """Over (T, B, F), PyTorch's default."""

    def __init__(self, batch_first: bool = False, bidirectional: bool = False) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 4, batch_first=batch_first, bidirectional=bidirectional, dtype=torch.float64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.lstm(x)[0]
        return out


def swapped(model: Any) -> Any:
    """The remedy."""
    return lambda x: model(x.swapaxes(0, 1)).swapaxes(0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("bidirectional", [True, False])
def test_a_leading_time_axis_is_named_and_its_remedy_works(bidirectional: bool) -> None:
    torch.manual_seed(0)
    model, x = Recurrent(bidirectional=bidirectional), torch.randn(4, 3, 5, dtype=torch.float64)
    report = gradreg_torch.check(model, x, None, FrobReg(1.0))
    assert "The second axis behaves as a batch axis" in str(report), str(report)
    assert not gradreg_torch.check(swapped(model), x.swapaxes(0, 1), None, FrobReg(1.0)).findings
    assert not gradreg_torch.check(Recurrent(batch_first=True), x, None, FrobReg(1.0)).findings


def test_a_graph_as_one_sample_is_the_remedy_of_edges() -> None:
    model, x, y = STATISTICS["graph"][0], tensor(X), tensor(Y)
    report: CheckReport = gradreg_torch.check(
        lambda x: model(x[0])[None], x[None], y[None], SpectReg(1.0), class_axis=-1
    )
    assert not report.findings, str(report)


def test_samples_coupled_behind_a_place_are_found() -> None:
    weight, last = nn.Parameter(tensor(FIRST)), nn.Parameter(tensor(LAST))

    def model(x: torch.Tensor) -> torch.Tensor:
        h = gradreg_torch.tap("h", (x @ weight).tanh())
        code = gradreg_torch.tap("code", h - h.mean(0))
        return gradreg_torch.tap("z", code.tanh()) @ last

    for reg in (SpectReg(1.0, at="h"), SpectReg(1.0, of="code"), SpectReg(1.0, at="h", of="code")):
        assert "depends on other samples of the batch" in str(gradreg_torch.check(model, tensor(X), tensor(Y), reg))
    assert not gradreg_torch.check(model, tensor(X), tensor(Y), SpectReg(1.0, at="z")).findings


@pytest.mark.parametrize("pairs", [True, False])
def test_a_loss_over_pairs_is_named(pairs: bool) -> None:
    def loss(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if not pairs:
            return F.cross_entropy(outputs, y, reduction="none")
        return -F.log_softmax(outputs @ outputs.T, 1).diagonal()

    report = gradreg_torch.check(torch_dense(torch.tanh), tensor(X), tensor(Y), DataGrad(1.0), loss_fn=loss)
    assert report.ok, str(report)
    assert ("the loss of a sample depends on the outputs of others" in str(report)) is pairs, str(report)


@pytest.mark.parametrize("call", ["loss", "penalty"])
def test_batch_norm_error_refuses_what_couples_samples_without_a_layer(call: str) -> None:
    x, y = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 1, 0, 1])
    linear = torch.nn.Linear(3, 2)

    def normalised(x: torch.Tensor) -> torch.Tensor:
        return linear(torch.nn.functional.batch_norm(x, None, None, training=True) ** 2)

    run = getattr(gradreg_torch, call)
    for reg in (SpectReg(1.0), SpectReg(1.0, fraction=0.6), DataGrad(1.0)):
        with pytest.raises(BatchNormError, match=rf"{call}: .*sample 0 reaches . of . others.*batch_norm='allow'"):
            run(normalised, x, y, reg, batch_norm="error")
        run(normalised, x, y, reg, batch_norm="allow")
        run(linear, x, y, reg, batch_norm="error")
