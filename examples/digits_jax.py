"""Digits in JAX: 100 labelled scans to train on, with and without a gradient regularizer.

Run: python examples/digits_jax.py
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import gradreg_jax as gradreg

SIZES = (64, 128, 128, 10)


def data() -> tuple[jax.Array, jax.Array]:
    """Standardised scans (1797, 64) and labels (1797,), in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = images[order].astype(np.float32)
    return jnp.asarray((x - x.mean()) / x.std()), jnp.asarray(labels[order])


def start(seed: int) -> list[tuple[jax.Array, jax.Array]]:
    """Weights and biases."""
    keys = jax.random.split(jax.random.key(seed), len(SIZES) - 1)
    pairs = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    return [(jax.random.normal(key, (n, m)) * (2 / n) ** 0.5, jnp.zeros(m)) for key, n, m in pairs]


def apply(params: list[tuple[jax.Array, jax.Array]], x: jax.Array) -> jax.Array:
    """Logits (B, 10)."""
    for weight, bias in params[:-1]:
        x = jax.nn.relu(x @ weight + bias)
    weight, bias = params[-1]
    return x @ weight + bias


@partial(jax.jit, static_argnames=("reg", "steps"))
def train(reg: gradreg.Regularizer | None, x: jax.Array, y: jax.Array, steps: int, seed: int, params: list) -> list:
    """The parameters after `steps` steps on all of x and y, as one program."""
    optimizer = optax.adam(1e-3)

    def update(carry: tuple, step: jax.Array) -> tuple[tuple, None]:
        params, state = carry

        def objective(params: list) -> jax.Array:
            return gradreg.loss(partial(apply, params), x, y, reg, step=step, seed=seed)[0]

        changes, state = optimizer.update(jax.grad(objective)(params), state)
        return (optax.apply_updates(params, changes), state), None

    return jax.lax.scan(update, (params, optimizer.init(params)), jnp.arange(steps))[0][0]


def main(steps: int, seeds: int) -> dict[str, tuple[float, float]]:
    """(accuracy in percent, mean Jacobian norm) of each method on 797 other scans, as means over the seeds."""
    x, y = data()
    results = {}
    for name, reg in {"plain": None, "SpectReg": gradreg.SpectReg(3e-4)}.items():
        trained = [train(reg, x[:100], y[:100], steps, seed, start(seed)) for seed in range(seeds)]
        accuracy = np.mean([(apply(params, x[1000:]).argmax(1) == y[1000:]).mean() for params in trained])
        norm = np.mean([gradreg.measure(partial(apply, params), x[1000:]).frobenius.mean() for params in trained])
        results[name] = 100 * float(accuracy), float(norm)
        print(f"{name:10} accuracy {100 * accuracy:.1f} %   mean Jacobian norm {norm:.1f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=4)
    main(**vars(parser.parse_args()))
