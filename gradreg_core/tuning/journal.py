"""Keeps finished trainings of a search in a file, one JSON line each, so that a search can resume."""

import json
import math
import os
from pathlib import Path
from typing import Any

from gradreg_core.errors import DataFileError, InputError
from gradreg_core.schema import to_dict
from gradreg_core.spec import Regularizer

__all__ = ["Journal"]

_FIELDS = {"regularizer", "seed", "score", "norm"}


class Journal:
    """The trainings in a file, by regularizer and seed.

    A line at the end of the file that a crash cut off does not count as a training.

    Args:
        path: of the file, which need not exist; its folder must.

    Raises:
        DataFileError: a line is not a training.
        InputError: the folder does not exist.
    """

    def __init__(self, path: "str | os.PathLike[str]") -> None:
        self.path = Path(path)
        self._known: dict[str, tuple[float, float | None]] = {}
        if not self.path.absolute().parent.is_dir():
            raise InputError(f"search: journal={str(path)!r}: there is no folder {self.path.parent}. Create it first.")
        if self.path.exists():
            self._read()

    def get(self, regularizer: Regularizer | None, seed: int) -> tuple[float, float | None] | None:
        """(score, norm) of a training, or None if it is not in the file."""
        return self._known.get(_key(regularizer, seed))

    def add(self, regularizer: Regularizer | None, seed: int, score: float, norm: float | None) -> None:
        """Write a training at once. A score that is not finite is written as null."""
        self._known[_key(regularizer, seed)] = score, norm
        finite = score if math.isfinite(score) else None
        line = {"regularizer": _plain(regularizer), "seed": seed, "score": finite, "norm": norm}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(line, allow_nan=False)}\n")

    def _read(self) -> None:
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise DataFileError(f"{self.path}: cannot be read as a search's trainings: {error}") from error
        whole, last = text[: text.rfind("\n") + 1], text[text.rfind("\n") + 1 :]
        if last:  # the search was stopped before the end of this line was written
            whole += f"{last}\n" if _parsed(last) is not None else ""
            self.path.write_text(whole, encoding="utf-8")
        for number, line in enumerate(whole.splitlines(), 1):
            trial = _parsed(line)
            if trial is None:
                raise DataFileError(
                    f"{self.path}: line {number} is not a training of a search. Give journal= another file."
                )
            score = -math.inf if trial["score"] is None else float(trial["score"])
            self._known[json.dumps([trial["regularizer"], trial["seed"]], sort_keys=True)] = score, trial["norm"]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        trial = json.loads(line)
    except ValueError:
        return None
    return trial if isinstance(trial, dict) and set(trial) == _FIELDS else None


def _plain(regularizer: Regularizer | None) -> dict[str, Any] | None:
    return None if regularizer is None else to_dict(regularizer)


def _key(regularizer: Regularizer | None, seed: int) -> str:
    return json.dumps([_plain(regularizer), seed], sort_keys=True)
