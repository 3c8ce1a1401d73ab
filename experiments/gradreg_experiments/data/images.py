"""Reads a zip file of small JPEG images in folders by class, train/CLASS/*.jpg and test/CLASS/*.jpg."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradreg_core.errors import DataFileError, InputError

__all__ = ["load_images", "split_images"]

Images = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

_SIDE, _CLASSES = 32, 10
_LONGEST = 2**16
"""The largest size of a file in bytes; one of 32x32 pixels has about a thousand."""


def load_images(path: Path, part: str, first: int, last: int) -> Images:
    """The files from `first` to `last` of each class, in the order of their names: (N, 3, 32, 32) and labels (N,).

    The classes take turns, so any leading subset is nearly balanced.

    Args:
        path: the zip file.
        part: "train" or "test".
        first: the first file of each class, counted from 0.
        last: the index after the last file.

    Raises:
        DataFileError: it is not such a file, or has fewer images.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, part, first, last)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataFileError(
            f"{path}: expected a zip file with {part}/CLASS/*.jpg, got: {error}. Pass CIFAR-10 as JPEG files."
        ) from error


def split_images(
    path: Path | None, caller: str, pool: int, validation: int, test: int
) -> tuple[Images, Images, Images]:
    """Disjoint training, validation and test images from `load_images`.

    Args:
        path: the zip file.
        caller: the experiment, for messages.
        pool: training images per class.
        validation: validation images per class, the next ones.
        test: test images per class.

    Raises:
        InputError: no file was given.
        DataFileError: it is not such a file, or has fewer images.
    """
    if path is None:
        raise InputError(
            f"{caller}: expected --data-dir with a zip file of CIFAR-10 as JPEG files, got none. Add --data-dir FILE."
        )
    return (
        load_images(path, "train", 0, pool),
        load_images(path, "train", pool, pool + validation),
        load_images(path, "test", 0, test),
    )


def _read(archive: zipfile.ZipFile, path: Path, part: str, first: int, last: int) -> tuple[Any, Any]:
    from PIL import Image

    by_class: dict[str, list[zipfile.ZipInfo]] = {}
    for info in sorted(archive.infolist(), key=lambda info: info.filename):
        place, *names = info.filename.split("/")
        if place == part and len(names) == 2 and names[1].endswith(".jpg"):
            by_class.setdefault(names[0], []).append(info)
    smallest = min(map(len, by_class.values()), default=0)
    if len(by_class) != _CLASSES or smallest < last:
        raise DataFileError(
            f"{path}: expected {_CLASSES} folders with {last} images or more in {part}, got {len(by_class)} with "
            f"{smallest} or more. Pass CIFAR-10 as JPEG files."
        )
    x, y = [], []
    for number in range(first, last):
        for label, infos in enumerate(by_class.values()):
            info = infos[number]
            if info.file_size > _LONGEST:
                raise DataFileError(
                    f"{path}: {info.filename} has {info.file_size} bytes, expected at most {_LONGEST}. Pass CIFAR-10 "
                    "as JPEG files."
                )
            image = np.asarray(Image.open(io.BytesIO(archive.read(info))).convert("RGB"))
            if image.shape != (_SIDE, _SIDE, 3):
                raise DataFileError(
                    f"{path}: {info.filename} has shape {image.shape}, expected ({_SIDE}, {_SIDE}, 3). Pass CIFAR-10 "
                    "as JPEG files."
                )
            x.append(image.transpose(2, 0, 1))
            y.append(label)
    return np.stack(x), np.array(y)
