"""The finished runs in a folder: one file per run, and all of them in an export.

A run's file is written atomically, so processes may be killed at any time, and several may write. The
export, ``results.jsonl``, has one line per run. It is built from the files when a command ends and read before them, so
a folder with only the export has all its runs.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gradreg_core.cli.files import write_json, write_text
from gradreg_core.errors import DataFileError
from gradreg_experiments.shapes import misshapen

__all__ = ["EXPORT", "RUNS", "Results"]

EXPORT = "results.jsonl"
RUNS = "runs"
"""The folder of the runs' files, inside the folder of the results."""


class Results:
    """The finished runs in a folder, by key.

    Args:
        folder: the folder; None keeps results in memory only.

    Raises:
        DataFileError: a file or a whole line of the export is not a run's result or cannot be read.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._by_key: dict[str, dict[str, Any]] = {}
        if folder is not None:
            for result in (*_exported(folder / EXPORT), *map(_read, _files(folder))):
                self._by_key.setdefault(result["key"], result)

    def __contains__(self, key: object) -> bool:
        return key in self._by_key

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._by_key[key]

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of the run with this key, or None."""
        return self._by_key.get(key)

    def __len__(self) -> int:
        return len(self._by_key)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._by_key.values())

    def add(self, result: Mapping[str, Any]) -> None:
        """Keep a result, unless this or another process has stored one with its key."""
        key = result["key"]
        if key in self._by_key:
            return
        path = self.folder / RUNS / f"{key}.json" if self.folder is not None else None
        if path is not None and path.exists():
            result = _read(path)
        elif path is not None:
            write_json(path, result)
        self._by_key[key] = dict(result)

    def export(self) -> Path:
        """Write all runs in the folder, other processes' included, to one file; return its path."""
        assert self.folder is not None
        runs = Results(self.folder)
        lines = (json.dumps(result, separators=(",", ":"), allow_nan=False) for result in runs)
        path = self.folder / EXPORT
        write_text(path, "".join(f"{line}\n" for line in lines))
        return path


def _files(folder: Path) -> list[Path]:
    """The runs' files, the oldest first; names that begin with a dot are unfinished ones."""
    files = [path for path in (folder / RUNS).glob("*.json") if not path.name.startswith(".")]
    return sorted(files, key=lambda path: (path.stat().st_mtime_ns, path.name))


def _read(path: Path) -> dict[str, Any]:
    return _parsed(_content(path), f"{path}: ", "this file")


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataFileError(
            f"{path}: cannot be read: {error.strerror}. Make it a readable file, or write the results to another "
            "folder with --out."
        ) from error


def _exported(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of an export; a truncated last line does not count."""
    if not path.exists():
        return
    lines = _content(path).splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        try:
            yield _parsed(line, f"{path}, line {number}: ", "this line")
        except DataFileError:
            if number < len(lines) or line.endswith(b"\n"):
                raise


def _parsed(text: bytes, place: str, remedy: str) -> dict[str, Any]:
    wanted = "a JSON object with a key"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _refusal(text, place, remedy, wanted) from error
    if wanted := misshapen(value):
        raise _refusal(text, place, remedy, wanted)
    result: dict[str, Any] = value
    return result


def _refusal(text: bytes, place: str, remedy: str, wanted: str) -> DataFileError:
    return DataFileError(
        f"{place}expected a run's result, {wanted}, got {text[:60]!r}. Remove {remedy}, or write the results to "
        "another folder with --out."
    )
