"""The results file: one JSON line for each finished run, only ever appended to.

A line is written in one piece and flushed to the disk before the next run is asked for. What a killed process left
unfinished at the end of the file is not a line yet: it is not read, and cut off before the next line is written.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradreg_core.errors import DataFileError

__all__ = ["Results"]


class Results:
    """The finished runs in a file.

    Args:
        path: of the file; it is made when the first run is added.

    Raises:
        DataFileError: a whole line of the file is no result.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, dict[str, Any]] = {}
        self._read = 0
        self._inode = -1
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have added; all of it, if the file is not the one that was read or was edited."""
        if not self.path.exists():
            return
        found = self.path.stat()
        if found.st_ino != self._inode or found.st_size < self._read:
            self._found, self._read, self._inode = {}, 0, found.st_ino
        try:
            self._read_on()
        except DataFileError:
            if not self._read:
                raise
            self._found, self._read = {}, 0
            self._read_on()

    def _read_on(self) -> None:
        with self.path.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                try:
                    value = json.loads(line)
                    key = value["key"]
                except (ValueError, TypeError, KeyError) as error:
                    raise DataFileError(
                        f"{self.path}: expected a run's result as a JSON object with a key, got {line[:60]!r} at byte "
                        f"{self._read}. Remove this line, or write the results to another folder with --out."
                    ) from error
                self._found.setdefault(key, value)
                self._read += len(line)

    def __contains__(self, key: object) -> bool:
        return key in self._found

    def __getitem__(self, key: str) -> dict[str, Any]:
        return self._found[key]

    def get(self, key: str) -> dict[str, Any] | None:
        """The result of the run with this key, or None."""
        return self._found.get(key)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._found.values())

    def add(self, result: Mapping[str, Any]) -> None:
        """Append a result, unless one with its key is there."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as stream, _locked(stream):
            self.refresh()
            if result["key"] in self._found:
                return
            self._end_last_line(stream)
            line = json.dumps(result, separators=(",", ":"), allow_nan=False).encode() + b"\n"
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
        self.refresh()

    def _end_last_line(self, stream: Any) -> None:
        """Cut off what a killed process left, but not a whole result that lacks the end of its line."""
        stream.seek(self._read)
        rest = stream.read()
        try:
            whole = bool(json.loads(rest)["key"])
        except (ValueError, TypeError, KeyError):
            whole = False
        if whole:
            stream.write(b"\n")
        elif rest:
            stream.truncate(self._read)


@contextmanager
def _locked(stream: Any) -> Iterator[None]:
    """Keep other processes from writing, where the system has file locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    fcntl.flock(stream, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(stream, fcntl.LOCK_UN)
