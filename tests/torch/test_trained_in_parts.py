"""Two processes of a Trainer end with the parameters of one."""

from pathlib import Path
from typing import Any

import pytest
import torch

import ranks
import trained_in_parts


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of two processes, each with half of every batch, in two micro-batches."""
    return ranks.results(trained_in_parts.__file__, 2, tmp_path_factory.mktemp("parts"))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["token", "causal"])
def test_transformers(results: dict[str, Any], task: str, tmp_path: Path) -> None:
    wanted, of_one = trained_in_parts.of_transformers(task, 12, tmp_path)
    names = ("loss", "penalty", "penalty/SpectReg", "penalty/DataGrad", "penalty/WeightDecay")
    for ways in [name for name in results if name.startswith(task)]:
        came, log = results[ways]
        # transformers computes losses, and normalises in Llama, in float32.
        torch.testing.assert_close(came, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
        assert [log[name] for name in names] == pytest.approx([of_one[name] for name in names], rel=1e-5), ways


@pytest.mark.slow
def test_lightning(results: dict[str, Any]) -> None:
    wanted = trained_in_parts.of_lightning(12, 1)
    for ways in ("lightning", "lightning, sharded"):
        # Adam divides each gradient by its own size, the smallest too.
        torch.testing.assert_close(results[ways], wanted, rtol=1e-9, atol=1e-12)
