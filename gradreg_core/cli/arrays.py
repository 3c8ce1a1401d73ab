"""Reads arrays and JSON from files that may be damaged or hostile, within limits on what they declare."""

import io
import json
import math
import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from gradreg_core.errors import DataFileError

__all__ = ["MAX_ARRAY_BYTES", "MAX_JSON_BYTES", "parse_json", "read_arrays", "read_json_file"]

MAX_ARRAY_BYTES = 2**30
"""An array that declares more bytes is refused."""
MAX_JSON_BYTES = 2**26
"""A longer JSON file is refused."""


def read_json_file(path: "str | os.PathLike[str]", purpose: str = "JSON") -> Any:
    """The value in a JSON file.

    Raises:
        DataFileError: it cannot be read, is not JSON, is longer than MAX_JSON_BYTES, or is nested too deeply.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
    except (OSError, ValueError) as error:
        raise DataFileError(f"{path}: cannot be read as {purpose}: {error}. Check its permissions.") from error
    if len(content) > MAX_JSON_BYTES:
        raise DataFileError(f"{path}: cannot be read as {purpose}: it has more than {MAX_JSON_BYTES} bytes.")
    return parse_json(content, str(path), purpose)


def parse_json(text: "str | bytes", place: str, purpose: str = "JSON") -> Any:
    """The value of a JSON text.

    Raises:
        DataFileError: it is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise DataFileError(f"{place}: cannot be read as {purpose}: it is nested too deeply.") from error
    except ValueError as error:
        raise DataFileError(f"{place}: cannot be read as {purpose}: {error}. Write the file again.") from error


def read_arrays(path: "str | os.PathLike[str]", names: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Arrays of an .npz file by name, and the names of all arrays in it. Nothing is unpickled.

    Args:
        path: the file.
        names: of the arrays to read; missing ones are left out.

    Raises:
        DataFileError: the file is missing, damaged, of another kind, or an array declares more than MAX_ARRAY_BYTES.
    """
    try:
        with Path(path).open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise DataFileError(
                    f"{path}: expected an .npz file with {' and '.join(names)}, got a single array. Write it with "
                    "numpy.savez."
                )
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            arrays = {name: _array(archive, members[name], f"{path}: {name}") for name in names if name in members}
            return arrays, list(members)
    except DataFileError:
        raise
    except Exception as error:  # a damaged archive raises nearly anything
        raise DataFileError(
            f"{path}: cannot be read as an .npz file of plain arrays: {error}. Write it again with numpy.savez."
        ) from error


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, place: str) -> np.ndarray:
    limit = MAX_ARRAY_BYTES + 2**16
    if member.file_size > limit:
        raise DataFileError(f"{place}: declares {member.file_size} bytes, and more than {MAX_ARRAY_BYTES} are refused.")
    with archive.open(member) as stream:
        head = io.BytesIO(stream.read(2**16))
        version = np.lib.format.read_magic(head)
        reader = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran, dtype = reader(head)
        if dtype.hasobject or dtype.names is not None:
            raise DataFileError(f"{place}: expected numbers, got the dtype {dtype}.")
        size = math.prod(shape) * dtype.itemsize
        if size > MAX_ARRAY_BYTES:
            raise DataFileError(f"{place}: declares {size} bytes, and more than {MAX_ARRAY_BYTES} are refused.")
        if head.tell() + size != member.file_size:
            raise DataFileError(f"{place}: declares {size} bytes, and has {member.file_size - head.tell()}.")
        data = bytearray(head.read())
        while len(data) < size and (more := stream.read(2**20)):
            data += more
        if stream.read(1) or len(data) != size:  # reading to the end compares the checksum
            raise DataFileError(f"{place}: declares {size} bytes, and has {len(data)}.")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
