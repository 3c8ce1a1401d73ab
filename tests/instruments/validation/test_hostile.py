"""Factories that exit, raise, print or hang give an error of one line, and never the status of a success."""

import json

import numpy as np
import pytest

import child

FACTORIES = """
import os, sys, time
import numpy as np
class Odd(BaseException): pass
def exit0(): sys.exit(0)
def gone(): os._exit(0)
def odd(): raise Odd("first\\nsecond")
def hang(): time.sleep(60)
def network():
    import torch
    print("[/red]"); os.system("echo shell")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
def batch():
    return network(), np.ones((2, 3)), np.array([0, 1])
"""
ENDS = {
    ("validate", "exit0"): "acme:exit0 raised SystemExit: 0.",
    ("validate", "hang"): "acme:hang did not return within 2 seconds.",
    ("conformance", "gone"): "os._exit(0) was called before the command was done.",
    ("check", "odd"): "acme:odd raised Odd: first second.",
}
MORE = {"validate": ["acme:network", "--batch", "batch.npz"], "conformance": [], "check": ["--json"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("factories")
    (place / "acme.py").write_text(FACTORIES)
    np.savez(place / "batch.npz", x=np.ones((2, 3), np.float32))
    return place


@pytest.fixture
def gradreg(folder, monkeypatch):
    """A function that runs a command in a process of its own."""
    monkeypatch.chdir(folder)
    return lambda *arguments: child.run("-m", "gradreg_core.cli.main", *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "name"), ENDS)
def test_what_ends_the_process_is_an_error(gradreg, command, name):
    done = gradreg(command, f"acme:{name}", *MORE[command], "--timeout", "2" if name == "hang" else "60")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert ENDS[command, name] in line


@pytest.mark.slow
def test_json_is_all_that_check_prints(gradreg):
    done = gradreg("check", "acme:batch", "--reg", "DataGrad(1.0)", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    assert "shell" in done.stderr
