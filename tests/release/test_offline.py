"""Importing and calling gradreg opens no connection."""

import pytest

from child import run

PROGRAM = """
import sys

def forbid(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request"):
        raise SystemExit(f"network: {event} {arguments}")

sys.addaudithook(forbid)
if sys.argv[1:]:
    import socket
    socket.create_connection(("localhost", 9))
import importlib, pkgutil
for name in %r:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("transformers"):  # a package that takes long
            importlib.import_module(module.name)
import torch, gradreg_torch as gradreg
model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
total, _ = gradreg.loss(model, torch.ones(2, 3), torch.tensor([0, 1]), gradreg.SpectReg(1.0))
total.backward()
print("done", float(total) > 0)
"""
PACKAGES = ["gradreg_core", "gradreg_numpy", "gradreg_torch", "gradreg_jax", "gradreg_tensorflow"]
"""Modules that a training imports."""


@pytest.mark.slow
def test_no_connection_at_import_or_call():
    done = run("-c", PROGRAM % (PACKAGES,))
    assert done.stdout.split() == ["done", "True"], done.stderr


def test_a_connection_would_be_noticed():
    done = run("-c", PROGRAM % ([],), "connect")
    assert "network: socket." in done.stderr, done.stderr
