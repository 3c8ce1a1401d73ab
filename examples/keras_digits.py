"""Digits in Keras' fit, on any backend of Keras: 100 labelled scans, with and without a gradient regularizer.

Run: KERAS_BACKEND=torch python examples/keras_digits.py
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

from gradreg_keras import RegularizedModel, SpectReg


def data() -> tuple[np.ndarray, np.ndarray]:
    """Standardised scans (1797, 64) and labels (1797,), in a fixed random order."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = images[order].astype(np.float32)
    return (x - x.mean()) / x.std(), labels[order]


def network() -> keras.Model:
    """Two hidden layers; it returns logits."""
    hidden = [keras.layers.Dense(128, "relu") for _ in range(2)]
    return keras.Sequential([keras.layers.Input((64,)), *hidden, keras.layers.Dense(10)])


def main(epochs: int, seeds: int) -> dict[str, float]:
    """The accuracy in percent of each method on 797 other scans, as a mean over the seeds."""
    x, y = data()
    results = {}
    for name, reg in {"plain": None, "SpectReg": SpectReg(3e-4)}.items():
        accuracies = []
        for seed in range(seeds):
            keras.utils.set_random_seed(seed)
            model = network()
            if reg is not None:
                model = RegularizedModel(model, reg, seed=seed)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            model.compile("adam", loss, metrics=["accuracy"])
            model.fit(x[:100], y[:100], batch_size=50, epochs=epochs, verbose=0)
            accuracies.append(model.evaluate(x[1000:], y[1000:], verbose=0, return_dict=True)["accuracy"])
        results[name] = 100 * float(np.mean(accuracies))
        print(f"{name:10} accuracy {results[name]:.1f} %")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    main(**vars(parser.parse_args()))
