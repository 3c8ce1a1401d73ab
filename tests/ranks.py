"""Processes on gloo that share a model: a script imports what they need once, and forks them."""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def fork(main: Callable[[int, int, int, Path], None]) -> None:
    """In a script with the arguments SIZE FOLDER: main(rank, size, port, folder) in each of the processes.

    If one fails, the others are ended, and so is this one.
    """
    size, folder = int(sys.argv[1]), Path(sys.argv[2])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.set_num_threads(1)
    torch.multiprocessing.start_processes(main, (size, port, folder), size, start_method="fork")


def results(script: str | Path, size: int, folder: Path) -> dict[str, Any]:
    """The results that the processes of a script have saved in results.pt."""
    command = [sys.executable, str(script), str(size), str(folder)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: dict[str, Any] = torch.load(folder / "results.pt", weights_only=False)
    return loaded
