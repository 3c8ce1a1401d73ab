"""The demo's data: scikit-learn's digits, or MNIST from files, in parts drawn the same way every time."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradreg_core.errors import DataFileError, InputError
from gradreg_experiments.data.idx import load_mnist

__all__ = ["CLASSES", "Dataset", "Part", "draw", "load_dataset", "standardise"]

CLASSES = 10
_PARTITION_SEED = 20170926
_MINIMUM_SIDE = 8
_MNIST_VALIDATION = 10_000


class Part(NamedTuple):
    """Images and their labels."""

    x: npt.NDArray[Any]
    """(N, H, W, 1), raw pixels or standardised."""
    y: npt.NDArray[np.int64]
    """The labels, (N,) in 0..9."""


class Dataset(NamedTuple):
    """Three disjoint parts; training sets are drawn from the pool."""

    name: str
    pool: Part
    validation: Part
    test: Part | None
    """The test part; None if it must not be seen."""


def load_dataset(data_dir: Path | None = None) -> Dataset:
    """The data, partitioned.

    scikit-learn's digits are 1,797 scans of 8x8 pixels; a fixed permutation gives 597 to the pool, 600 to validation
    and 600 to the test. MNIST's test part is the official one, and validation is the last 10,000 images of
    the training file (a sixth of a smaller one).

    Args:
        data_dir: a folder with MNIST's four IDX files; None for scikit-learn's digits.

    Raises:
        DataFileError: a file is missing or malformed.
    """
    if data_dir is None:
        from sklearn.datasets import load_digits

        images, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(_PARTITION_SEED).permutation(len(labels))
        x, y = images.reshape(-1, 8, 8).astype(np.uint8)[order], labels[order]
        test, validation = _part(x[-600:], y[-600:]), _part(x[-1200:-600], y[-1200:-600])
        return Dataset("digits", _part(x[:-1200], y[:-1200]), validation, test)
    files = load_mnist(data_dir)
    side = min(files.train_images.shape[1:])
    held_out = min(_MNIST_VALIDATION, len(files.train_labels) // 6)
    if side < _MINIMUM_SIDE or not held_out or not len(files.test_labels):
        raise DataFileError(
            f"{data_dir}: expected images of at least {_MINIMUM_SIDE}x{_MINIMUM_SIDE} pixels, 6 to train and 1 to test "
            f"with, got {files.train_images.shape} and {files.test_images.shape}. Use the original MNIST files."
        )
    pool = _part(files.train_images[:-held_out], files.train_labels[:-held_out])
    validation = _part(files.train_images[-held_out:], files.train_labels[-held_out:])
    return Dataset("MNIST", pool, validation, _part(files.test_images, files.test_labels))


def draw(pool: Part, train_size: int, seed: int) -> Part:
    """A training set: uniformly at random, without replacement, not balanced by class, as in Varga et al. 2017.

    Raises:
        InputError: the pool is smaller than `train_size`.
    """
    if not 0 < train_size <= len(pool.y):
        raise InputError(
            f"demo: the training size must be between 1 and {len(pool.y)} with these data, got {train_size}."
        )
    chosen = np.random.default_rng([_PARTITION_SEED, seed]).choice(len(pool.y), train_size, replace=False)
    return Part(pool.x[chosen], pool.y[chosen])


def standardise(train: Part, *others: Part) -> tuple[Part, ...]:
    """All parts standardised by the training pixels' mean and standard deviation, two numbers; float32.

    Raises:
        InputError: all pixels of the training part are equal.
    """
    mean, deviation = float(train.x.mean()), float(train.x.std())
    if not deviation > 0:
        raise InputError(f"demo: every pixel of the training images is {mean:g}, so nothing can be learnt from them.")
    return tuple(Part((part.x.astype(np.float32) - mean) / deviation, part.y) for part in (train, *others))


def _part(x: npt.NDArray[np.uint8], y: npt.NDArray[np.generic]) -> Part:
    return Part(x[..., None], y.astype(np.int64))
