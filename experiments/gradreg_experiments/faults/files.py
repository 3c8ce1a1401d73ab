"""Faults of files: truncated, with flipped bits, or malicious. Reading raises an error of gradreg or returns data."""

import gzip
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gradreg_core.cli.arguments import parse_regularizer
from gradreg_core.cli.arrays import read_arrays, read_json_file
from gradreg_core.errors import GradregError
from gradreg_core.presets import SpectReg
from gradreg_core.schema import to_dict
from gradreg_experiments.data.idx import read_idx
from gradreg_experiments.faults.stand_in import jobs
from gradreg_experiments.results import EXPORT, Results

__all__ = ["HOSTILE", "READERS", "damaged", "read_damaged", "read_hostile"]

_MOST_MEMORY = 2**28 * 1.3
"""The bytes of the largest array that is read, plus the overhead of reading."""

Read = Callable[[Path], Any]


def _idx(shape: tuple[int, ...], values: bytes) -> bytes:
    return bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape) + values


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _lines() -> bytes:
    results = [{"key": job.key, **job.as_json(), "value": 1} for job in jobs(4)]
    return "".join(f"{json.dumps(result)}\n" for result in results).encode()


_IMAGES = _idx((3, 4, 4), bytes(range(48)))
READERS: dict[str, tuple[str, bytes, Read]] = {
    "IDX": ("images", _IMAGES, lambda path: read_idx(path, 3)),
    "IDX in gzip": ("images.gz", gzip.compress(_IMAGES), lambda path: read_idx(path, 3)),
    "npz": ("batch.npz", _npz(x=np.ones((4, 3)), y=np.arange(4)), lambda path: read_arrays(path, ("x", "y"))),
    "a regularizer in JSON": (
        "reg.json",
        json.dumps(to_dict(SpectReg(0.1) + SpectReg(0.2, seed=3))).encode(),
        lambda path: parse_regularizer(str(path)),
    ),
    "results.jsonl": (EXPORT, _lines(), lambda path: Results(path.parent)),
}
"""By format: the file's name, its content and its reader."""


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """The content truncated, with one to eight flipped bits, or with a range of other bytes."""
    data = bytearray(content)
    kind = generator.integers(3)
    if kind == 0:
        return bytes(data[: generator.integers(len(data))])
    if kind == 1:
        for _ in range(generator.integers(1, 9)):
            data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        return bytes(data)
    start = int(generator.integers(len(data)))
    stretch = generator.bytes(int(generator.integers(1, 17)))
    data[start : start + len(stretch)] = stretch
    return bytes(data)


def read_damaged(name: str, folder: Path, generator: np.random.Generator) -> str:
    """The outcome of reading a damaged file: "refused", "read", or an exception that is not gradreg's."""
    file, content, read = READERS[name]
    path = folder / file
    path.write_bytes(damaged(content, generator))
    return _outcome(read, path)


def _outcome(read: Read, path: Path) -> str:
    try:
        read(path)
    except GradregError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "read"


def read_hostile(name: str, folder: Path) -> str:
    """The problem with reading a hostile file; empty if it was refused with little memory."""
    file, write, read = HOSTILE[name]
    path = folder / file
    write(path)
    tracemalloc.start()
    try:
        outcome = _outcome(read, path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    if outcome != "refused":
        return outcome
    return f"{peak / 1e6:.0f} MB of memory" if peak > _MOST_MEMORY else ""


def _bomb(path: Path) -> None:
    """About 4.5 MB of gzip that claim, and hold, 2**30 bytes."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(_idx((2**20, 32, 32), b""))
        for _ in range(64):
            file.write(bytes(2**24))


def _npz_claims(path: Path) -> None:
    """An array whose header claims 2**40 bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**37,)})
        archive.writestr("x.npy", header.getvalue())


def _npz_bomb(path: Path) -> None:
    """An array of 2**30 + 1 bytes, compressed a thousandfold."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        np.lib.format.write_array_header_1_0(
            member, {"descr": "|u1", "fortran_order": False, "shape": (2**30 + 2**20,)}
        )
        for _ in range(1025):
            member.write(bytes(2**20))


def _npz_objects(path: Path) -> None:
    """An array of objects; reading it would run code."""
    np.savez(path, x=np.array([{"a": 1}], dtype=object))


def _writer(content: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(content)

    return write


def _arrays(path: Path) -> Any:
    return read_arrays(path, ("x", "y"))


HOSTILE: dict[str, tuple[str, Callable[[Path], None], Read]] = {
    "a gzip that claims and holds 2**30 bytes": ("images.gz", _bomb, lambda path: read_idx(path, 3)),
    "an IDX header that claims 2**96 values": (
        "images",
        _writer(_idx((2**32 - 1,) * 3, b"")),
        lambda path: read_idx(path, 3),
    ),
    "an npz whose header claims 2**40 bytes": ("batch.npz", _npz_claims, _arrays),
    "an npz of more than 2**30 bytes in 5 MB": ("batch.npz", _npz_bomb, _arrays),
    "an npz with objects to unpickle": ("batch.npz", _npz_objects, _arrays),
    "JSON of 100,000 open brackets": ("spec.json", _writer(b"[" * 100_000), read_json_file),
    "a regularizer of 5,000 sums in sums": (
        "spec.json",
        _writer(b'{"schema":1,"kind":"Sum","terms":[' * 5000 + b"]}" * 5000),
        lambda path: parse_regularizer(str(path)),
    ),
    "JSON that is not UTF-8": ("spec.json", _writer(b"\xff\xfe[1"), read_json_file),
    "results with a list for a key": (EXPORT, _writer(b'{"key":[1]}\n'), lambda path: Results(path.parent)),
    "results whose accuracy is a word": (
        EXPORT,
        _writer(b'{"key":"a","accuracy":"high"}\n'),
        lambda path: Results(path.parent),
    ),
    "results of a deep list": (EXPORT, _writer(b"[" * 100_000 + b"\n"), lambda path: Results(path.parent)),
}
"""By fault: the file's name, its writer and its reader."""
