"""DistributedDataParallel: processes that share a batch have the gradient of the whole."""

import socket
import subprocess
import sys
from pathlib import Path

import torch


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    """DistributedDataParallel on gloo: each rank has half the batch and the draws of the whole."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = Path(__file__).with_name("distributed_step.py")
    ranks = [
        subprocess.Popen([sys.executable, str(script), str(rank), "2", str(port), str(tmp_path)]) for rank in range(2)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0, 0]
    averaged = torch.cat([gradient.flatten() for gradient in torch.load(tmp_path / "gradients.pt")])
    wanted = torch.load(tmp_path / "wanted.pt")
    torch.testing.assert_close(averaged, wanted, rtol=1e-12, atol=1e-15)  # the mean of two means of three, in float64
