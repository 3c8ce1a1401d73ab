"""Digits in TensorFlow: 100 labelled scans to train on, with and without a gradient regularizer.

Run: python examples/digits_tensorflow.py
"""

import argparse

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import gradreg_tensorflow as gradreg


def data() -> tuple[tf.Tensor, tf.Tensor]:
    """Standardised scans (1797, 64) and labels (1797,), in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = images[order].astype(np.float32)
    return tf.constant((x - x.mean()) / x.std()), tf.constant(labels[order])


def train(reg: gradreg.Regularizer | None, x: tf.Tensor, y: tf.Tensor, steps: int, seed: int) -> keras.Model:
    """A network trained on all of x and y at each step."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(128, "relu") for _ in range(2)]
    model = keras.Sequential([keras.layers.Input((64,)), *hidden, keras.layers.Dense(10)])
    optimizer = keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)

    @tf.function
    def run() -> None:
        for step in tf.range(steps):
            with tf.GradientTape() as tape:
                total, _ = gradreg.loss(model, x, y, reg, step=step, seed=seed)
            gradients = tape.gradient(total, model.trainable_variables)
            optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    run()
    return model


def main(steps: int, seeds: int) -> dict[str, tuple[float, float]]:
    """(accuracy in percent, mean Jacobian norm) of each method on 797 other scans, as means over the seeds."""
    x, y = data()
    results = {}
    for name, reg in {"plain": None, "SpectReg": gradreg.SpectReg(3e-4)}.items():
        models = [train(reg, x[:100], y[:100], steps, seed) for seed in range(seeds)]
        accuracy = np.mean([np.mean(np.argmax(model(x[1000:]), 1) == y[1000:].numpy()) for model in models])
        norm = np.mean([gradreg.measure(model, x[1000:]).frobenius.numpy().mean() for model in models])
        results[name] = 100 * float(accuracy), float(norm)
        print(f"{name:10} accuracy {100 * accuracy:.1f} %   mean Jacobian norm {norm:.1f}")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=4)
    main(**vars(parser.parse_args()))
