"""Reads MNIST's IDX files, plain or gzipped, and verifies everything in their headers.

An IDX file is two zero bytes, a type byte (0x08 for unsigned bytes), the number of axes, each axis' length as a
big-endian 32-bit integer, and then the values, last axis fastest.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from gradreg_core.errors import DataFileError

__all__ = ["MAX_BYTES", "Mnist", "load_mnist", "read_idx"]

MAX_BYTES = 2**28
"""The limit on a file's number of values; MNIST's largest has 47 million."""

Bytes = npt.NDArray[np.uint8]
Stream = BinaryIO | gzip.GzipFile

_GZIP_MAGIC = b"\x1f\x8b"
_UBYTE = 0x08
_CHUNK = 2**20
_PARTS = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
_REMEDY = (
    "Download MNIST's four files again (dataset hubs and mirrors of the original site offer them), "
    "or omit --data-dir: scikit-learn's digits need no file."
)


class Mnist(NamedTuple):
    """The four files. Images are (N, H, W), labels (N,) in 0..9."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


def read_idx(path: Path, rank: int) -> Bytes:
    """The array in an IDX file of unsigned bytes, complete or not at all; its content shows whether it is gzipped.

    Args:
        path: the file.
        rank: the number of axes that it must have.

    Raises:
        DataFileError: the file is missing, truncated, corrupt, too long, or does not match its header.
    """
    try:
        with path.open("rb") as raw:
            zipped = raw.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            raw.seek(0)
            if not zipped:
                return _decode(raw, path, rank)
            with gzip.GzipFile(fileobj=raw) as stream:
                return _decode(stream, path, rank)
    except FileNotFoundError as error:
        raise DataFileError(f"{path}: expected an IDX file, but there is no file of this name. {_REMEDY}") from error
    except EOFError as error:
        raise DataFileError(f"{path}: expected a whole gzip stream, but it ends too early. {_REMEDY}") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataFileError(f"{path}: expected a valid gzip stream, got a corrupt one: {error}. {_REMEDY}") from error
    except OSError as error:
        raise DataFileError(
            f"{path}: cannot be read: {error.strerror or error}. Check the path and its permissions."
        ) from error


def load_mnist(directory: Path) -> Mnist:
    """MNIST's four files from `directory`, named as usual: with '-' or '.' before "idx", with or without ".gz".

    Raises:
        DataFileError: a file is missing or malformed, or the files do not match.
    """
    paths = [_find(directory, part) for part in _PARTS]
    train_images, test_images = (read_idx(path, 3) for path in paths[::2])
    train_labels, test_labels = (read_idx(path, 1) for path in paths[1::2])
    for images, labels, at in ((train_images, train_labels, 0), (test_images, test_labels, 2)):
        if len(images) != len(labels):
            raise DataFileError(
                f"{paths[at + 1]}: expected {len(images)} labels, as many as {paths[at].name} has images, "
                f"got {len(labels)}. {_REMEDY}"
            )
        if labels.size and labels.max() > 9:
            where = int(labels.argmax())
            raise DataFileError(
                f"{paths[at + 1]}: expected labels in 0..9, got {labels[where]} at index {where}. {_REMEDY}"
            )
    if train_images.shape[1:] != test_images.shape[1:]:
        raise DataFileError(
            f"{paths[2]}: expected images of {train_images.shape[1:]} pixels, as in {paths[0].name}, "
            f"got {test_images.shape[1:]}. {_REMEDY}"
        )
    return Mnist(train_images, train_labels, test_images, test_labels)


def _find(directory: Path, part: str) -> Path:
    stem, _, kind = part.rpartition("-")
    names = [f"{stem}{separator}{kind}-ubyte{ending}" for separator in "-." for ending in ("", ".gz")]
    for name in names:
        if (directory / name).is_file():
            return directory / name
    state = "it has none of them" if directory.is_dir() else "there is no such folder"
    raise DataFileError(
        f"{directory}: expected a file named {', '.join(names[:-1])} or {names[-1]}; {state}. {_REMEDY}"
    )


def _decode(stream: Stream, path: Path, rank: int) -> Bytes:
    size = 4 + 4 * rank
    header = _read(stream, size)
    if len(header) >= 4 and header[:2] != b"\0\0":
        raise DataFileError(
            f"{path}: expected an IDX file, which starts with bytes 00 00, got {header[:2].hex(' ')}. {_REMEDY}"
        )
    if len(header) >= 4 and header[2] != _UBYTE:
        raise DataFileError(f"{path}: expected type 0x08 (unsigned bytes), got 0x{header[2]:02x}. {_REMEDY}")
    if len(header) >= 4 and header[3] != rank:
        contents = "images" if rank == 3 else "labels" if rank == 1 else "these data"
        raise DataFileError(f"{path}: expected {rank} axes, as {contents} have, got {header[3]}. {_REMEDY}")
    if len(header) < size:
        raise DataFileError(f"{path}: expected a header of {size} bytes, the file ends after {len(header)}. {_REMEDY}")
    shape: tuple[int, ...] = struct.unpack(f">{rank}I", header[4:])
    count = math.prod(shape)
    if count > MAX_BYTES:
        raise DataFileError(
            f"{path}: the header announces {' x '.join(map(str, shape))} = {count} values, more than the limit of "
            f"{MAX_BYTES}; it is probably corrupt. {_REMEDY}"
        )
    values = _read(stream, count + 1)
    if len(values) < count:
        raise DataFileError(f"{path}: expected {count} values after the header, the file has {len(values)}. {_REMEDY}")
    if len(values) > count:
        raise DataFileError(f"{path}: expected {count} values after the header, but more bytes follow. {_REMEDY}")
    array = np.frombuffer(values, np.uint8).reshape(shape)  # no copy
    array.flags.writeable = False
    return array


def _read(stream: Stream, size: int) -> bytearray:
    """Up to `size` bytes; memory grows with the bytes present, not with `size`."""
    data = bytearray()
    while len(data) < size and (more := stream.read(min(_CHUNK, size - len(data)))):
        data += more
    return data
