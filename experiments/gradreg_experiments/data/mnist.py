"""MNIST as the authors split and scaled it, from IDX files in a folder. Nothing is downloaded."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradreg_core.errors import DataFileError, InputError
from gradreg_experiments.data.idx import Mnist, load_mnist

__all__ = ["CHECKSUMS", "HELD_OUT", "MNIST_DIGEST", "Part", "Split", "digest", "load", "split_files"]

HELD_OUT = 10_000
"""The last images of the training file: the authors' test set, since they had tuned on the official one."""

CHECKSUMS = {
    "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of the unzipped IDX files of the original MNIST."""
MNIST_DIGEST = "b2d8f5bf39174ee5"
"""Their :func:`digest`."""


class Part(NamedTuple):
    """Standardised images, (N, 28, 28, 1) float32, and labels, (N,) int64."""

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    mean: float
    """The mean subtracted from the pixels in [0, 1]."""
    deviation: float
    """The standard deviation that they were divided by."""


class Split(NamedTuple):
    """The images of one run."""

    train: Part
    held_out: Part
    """The authors' test set."""
    official: Part
    """MNIST's own test set."""


@cache
def load(directory: Path, unverified: bool = False) -> Mnist:
    """The four files.

    Args:
        directory: a folder with MNIST's four IDX files, gzipped or not.
        unverified: accept files that are not the original MNIST's.

    Raises:
        DataFileError: a file is missing or malformed, differs from MNIST, or its images are not 28x28.
    """
    files = load_mnist(directory)
    if files.train_images.shape[1:] != (28, 28) or len(files.train_labels) < 2 or not len(files.test_labels):
        raise DataFileError(
            f"{directory}: expected images of 28x28 pixels, got training images {files.train_images.shape} and "
            f"test images {files.test_images.shape}. Use the original MNIST files."
        )
    if not unverified:
        for name, wanted in CHECKSUMS.items():
            actual = hashlib.sha256(_idx_bytes(getattr(files, name))).hexdigest()
            if actual != wanted:
                raise DataFileError(
                    f"{directory}: the {name.replace('_', ' ')} are not the original MNIST's: expected SHA-256 "
                    f"{wanted} of the unzipped file, got {actual}. Download the files again, or pass --unverified-data "
                    "to use them; their results are kept apart."
                )
    return files


def digest(files: Mnist) -> str:
    """A hash of all images and labels, 16 hexadecimal digits."""
    state = hashlib.sha256()
    for array in files:
        state.update(_idx_bytes(array))
    return state.hexdigest()[:16]


def split_files(files: Mnist, train_size: int, seed: int, *, shared: bool = False) -> Split:
    """The training subset for a seed and the two test sets, standardised.

    The subset equals that of the authors' code, image by image: NumPy's legacy generator permutes the first 50,000.

    Args:
        files: MNIST.
        train_size: the number of images in the subset.
        seed: the seed of the subset.
        shared: whether to standardise the test sets by the training images' mean and deviation, not by their own.

    Raises:
        InputError: there are fewer images than `train_size`.
    """
    held_out = min(HELD_OUT, len(files.train_labels) // 6 or 1)
    pool = len(files.train_labels) - held_out
    if train_size > pool:
        raise InputError(f"reproduce: train_size is {train_size}, but there are only {pool} images to draw from.")
    chosen = np.random.RandomState(seed).permutation(pool)[:train_size]
    train = _part(files.train_images[chosen], files.train_labels[chosen])
    like = train if shared else None
    return Split(
        train,
        _part(files.train_images[-held_out:], files.train_labels[-held_out:], like),
        _part(files.test_images, files.test_labels, like),
    )


def _part(images: npt.NDArray[Any], labels: npt.NDArray[Any], like: Part | None = None) -> Part:
    pixels = images.astype(np.float64)[..., None] / 255
    mean, deviation = (pixels.mean(), pixels.std()) if like is None else (like.mean, like.deviation)
    if not deviation > 0:
        raise InputError(f"reproduce: every pixel is {mean:g}, so nothing can be learnt from these images.")
    scaled = ((pixels - mean) / deviation).astype(np.float32)
    return Part(scaled, labels.astype(np.int64), float(mean), float(deviation))


def _idx_bytes(array: npt.NDArray[Any]) -> bytes:
    """The content of the unzipped IDX file of an array of bytes."""
    header = bytes((0, 0, 8, array.ndim)) + b"".join(length.to_bytes(4, "big") for length in array.shape)
    return header + array.tobytes()
