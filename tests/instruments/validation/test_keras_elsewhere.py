"""Keras models on JAX and on PyTorch have layers and parameters in validate, as those on TensorFlow do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras")
pytest.importorskip("torch")
SCRIPT = Path(__file__).with_name("keras_elsewhere.py")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_layers_and_parameters_are_compared(backend):
    if backend == "jax":
        pytest.importorskip("jax")
    environment = {**os.environ, "KERAS_BACKEND": backend}
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["backend"] == backend
    assert report["ok"]
    assert "parameter gradient of the penalty" in report["rows"]
    assert report["layers"] >= 3
    assert report["wrong"] is not None
    assert "GELU in its exact (erf) form" in report["cause"]
    assert "silu (swish)" in report["cause"]
