"""Run by `nox -s wheel` in an environment that has the wheel with one extra alone: BACKEND EXTRA."""

import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import gradreg_core

MODULES = {
    "lightning": ["lightning", "gradreg_monitor.lightning"],
    "transformers": ["gradreg_torch.transformers", "gradreg_monitor.transformers"],
    "monitor": ["matplotlib", "gradreg_monitor"],
}


def torch_step():
    import torch

    import gradreg_torch as gradreg

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    x, y = torch.randn(32, 20), torch.randint(3, (32,))
    total, parts = gradreg.loss(model, x, y, gradreg.SpectReg(0.01))
    total.backward()
    return parts


def jax_step():
    import jax
    import jax.numpy as jnp

    import gradreg_jax as gradreg

    x, y = jax.random.normal(jax.random.key(0), (32, 20)), jnp.zeros(32, int)

    def objective(w):
        return gradreg.loss(lambda x: jnp.tanh(x @ w), x, y, gradreg.SpectReg(0.01))

    (_, parts), _ = jax.value_and_grad(objective, has_aux=True)(jnp.ones((20, 3)) / 20)
    return parts


def tensorflow_step():
    import tensorflow as tf

    import gradreg_tensorflow as gradreg

    model = tf.keras.Sequential([tf.keras.layers.Dense(64, activation="relu"), tf.keras.layers.Dense(3)])
    x, y = tf.random.stateless_normal((32, 20), (0, 0)), tf.zeros(32, tf.int32)
    with tf.GradientTape() as tape:
        total, parts = gradreg.loss(model, x, y, gradreg.SpectReg(0.01))
    assert all(slope is not None for slope in tape.gradient(total, model.trainable_variables))
    return parts


def numpy_step():
    import numpy as np

    import gradreg_numpy as gradreg
    from gradreg_core.portable.networks import Activation, Dense, Network

    network = Network((20,), (Dense(8), Activation("tanh"), Dense(3)))
    rng = np.random.default_rng(0)
    weights = {path: rng.normal(size=shape) for path, shape in network.weights().items()}
    model = gradreg.Model(network, weights)
    return gradreg.loss(model, rng.normal(size=(4, 20)), np.array([0, 1, 2, 0]), gradreg.SpectReg(0.01))[1]


def main(backend, extra):
    assert "site-packages" in Path(gradreg_core.__file__).parts, gradreg_core.__file__
    for module in MODULES.get(extra, ()):
        importlib.import_module(module)
    if extra == "keras":  # which does not import without a framework
        assert metadata.version("keras")
    parts = globals()[f"{backend}_step"]()
    assert float(parts.penalty[0]) > 0, parts
    command = str(Path(sys.executable).with_name("gradreg"))
    subprocess.run([command, "--version"], check=True, stdout=subprocess.DEVNULL)
    kit = subprocess.run([command, "conformance", "numpy", "--check", "weight"], capture_output=True, text=True)
    if extra == "conformance":
        assert kit.returncode == 0, kit.stdout + kit.stderr
    else:
        assert 'pip install "gradreg[conformance]"' in kit.stderr, kit.stdout + kit.stderr
    print(f"{extra}: {backend} trains, {len(list(metadata.distributions()))} distributions")


if __name__ == "__main__":
    main(*sys.argv[1:])
