"""Writers of a monitor's values: CSV, TensorBoard, Weights & Biases. Any ``write(step, values)`` is a writer."""

import csv
import os
from pathlib import Path
from typing import Any

from gradreg_core.errors import DataFileError, InputError, InputTypeError

__all__ = ["CsvWriter", "TensorBoardWriter", "WandbWriter", "read_csv"]


class CsvWriter:
    """A row per record, in a CSV file that is complete after every row.

    Args:
        path: the path of the file. Its folder must exist.
        append: continue an existing file, for example after a restart; otherwise a file is replaced at the first
            record.

    Raises:
        InputError: a record's values differ from the file's columns.
        DataFileError: the file to continue is not a monitor's table.
    """

    def __init__(self, path: str | os.PathLike[str], *, append: bool = False) -> None:
        self.path = Path(path)
        self._columns: list[str] = _columns(self.path) if append and self.path.exists() else []

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Write a row."""
        columns = ["step", *values]
        starts = not self._columns
        if not starts and set(self._columns) != set(columns):
            raise InputError(
                f"CsvWriter: {self.path} has the columns {', '.join(self._columns)}, but this record has "
                f"{', '.join(columns)}. Give each monitor its own file."
            )
        self._columns = self._columns or columns
        with self.path.open("w" if starts else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns)
            if starts:
                writer.writeheader()
            writer.writerow({"step": step, **values})


def _columns(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        columns = next(csv.reader(file), [])
    if columns and columns[0] != "step":
        raise DataFileError(f"{path}: expected a monitor's table, with the first column step, got {columns[0]!r}.")
    return columns


def read_csv(path: str | os.PathLike[str]) -> list[dict[str, float]]:
    """The records in a file of :class:`CsvWriter`.

    Raises:
        DataFileError: the file cannot be read, or is not a monitor's table.
    """
    try:
        _columns(Path(path))
        with Path(path).open(newline="", encoding="utf-8") as file:
            return [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    except DataFileError:
        raise
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise DataFileError(f"{path}: cannot be read as a monitor's table: {error}") from error


class TensorBoardWriter:
    """Writes scalars to a `SummaryWriter` of ``torch.utils.tensorboard``, ``tensorboardX``, or any with ``add_scalar``.

    Args:
        writer: the SummaryWriter.
        prefix: a prefix of the names.

    Raises:
        InputTypeError: the writer has no ``add_scalar``.
    """

    def __init__(self, writer: Any, *, prefix: str = "gradreg/") -> None:
        if not callable(getattr(writer, "add_scalar", None)):
            raise InputTypeError(f"TensorBoardWriter: expected a SummaryWriter with add_scalar, got {writer!r}.")
        self.writer, self.prefix = writer, prefix

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Add one scalar per value."""
        for name, value in values.items():
            self.writer.add_scalar(f"{self.prefix}{name}", value, step)


class WandbWriter:
    """Logs values to a run of Weights & Biases, over a separate axis, so your own steps do not matter.

    Args:
        run: what ``wandb.init()`` returned.
        prefix: a prefix of the names; the axis is the prefix and ``step``.

    Raises:
        InputTypeError: the run has no ``log`` and ``define_metric``.
    """

    def __init__(self, run: Any, *, prefix: str = "gradreg/") -> None:
        if not (callable(getattr(run, "log", None)) and callable(getattr(run, "define_metric", None))):
            raise InputTypeError(f"WandbWriter: expected a run, as wandb.init() returns, got {run!r}.")
        self.run, self.prefix = run, prefix
        run.define_metric(f"{prefix}step")
        run.define_metric(f"{prefix}*", step_metric=f"{prefix}step")

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Log the values."""
        self.run.log({f"{self.prefix}step": step, **{f"{self.prefix}{name}": value for name, value in values.items()}})
