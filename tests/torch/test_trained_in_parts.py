"""Two processes of a Trainer end with the parameters of one."""

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import trained_in_parts


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two processes end with, each with half of every batch, in two micro-batches."""
    folder = tmp_path_factory.mktemp("parts")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, trained_in_parts.__file__]
    ranks = [subprocess.Popen([*command, str(rank), "2", str(port), str(folder)]) for rank in range(2)]
    try:
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    loaded: dict[str, Any] = torch.load(folder / "results.pt", weights_only=False)
    return loaded


@pytest.mark.parametrize("task", ["token", "causal"])
def test_transformers(results: dict[str, Any], task: str, tmp_path: Path) -> None:
    came, log = results[task]
    wanted, of_one = trained_in_parts.of_transformers(task, 12, tmp_path)
    # transformers computes losses, and normalises in Llama, in float32.
    torch.testing.assert_close(came, wanted, rtol=1e-5, atol=1e-5 * wanted.abs().max().item())
    for name in ("loss", "penalty", "penalty/SpectReg", "penalty/DataGrad", "penalty/WeightDecay"):
        assert log[name] == pytest.approx(of_one[name], rel=1e-5), name


def test_lightning(results: dict[str, Any]) -> None:
    wanted = trained_in_parts.of_lightning(12, 1)
    # Adam divides each gradient by its own size, the smallest too.
    torch.testing.assert_close(results["lightning"], wanted, rtol=1e-9, atol=1e-12)
