"""Terminal helpers that the commands share: console, tables, progress bar, and the option ``--out``."""

import errno
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from gradreg_core.errors import InputError

__all__ = ["Bar", "OutputPath", "get_console", "make_table", "out_option", "progress_bar"]

_PIPED_WIDTH = 200
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LEAST_ROOM = 2**16
"""Bytes that must fit at a path before any work is done for it."""
_Command = TypeVar("_Command", bound=Callable[..., Any])


def get_console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no highlighting, and long lines are left to the terminal to wrap.

    If the output is piped, or NO_COLOR is set, it is plain: no colours, nothing bold. Piped tables are 200
    characters wide at most.
    """
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True, color_system=colours)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    return console


def make_table(headings: Sequence[str], *, right: Collection[str] = (), title: str = "") -> Table:
    """An empty table; add rows by ``add_row(*cells, style=...)``, where a cell is a string or a `rich.text.Text`.

    Args:
        headings: of the columns.
        right: the `headings` whose columns hold numbers, aligned to the right. If there is little room, longer columns
            wrap first, and nothing is cut.
        title: a line above the table.
    """
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table


class Bar:
    """A progress bar that is shown; see :func:`progress_bar`."""

    def __init__(self, progress: Progress, description: str, total: float) -> None:
        self._progress = progress
        self._task = progress.add_task(description, total=total)

    def advance(self, amount: float = 1) -> None:
        """Count `amount` of the total as done."""
        self._progress.advance(self._task, amount)

    def describe(self, description: str) -> None:
        """Replace the words next to the bar."""
        self._progress.update(self._task, description=description)


@contextmanager
def progress_bar(description: str, total: float) -> Iterator[Bar]:
    """A progress bar on stderr with the time taken and the time left. It is erased at the end.

    Nothing is shown if stderr is not a terminal.

    Args:
        description: the words next to the bar, which may change as it moves.
        total: the amount of work: tasks, or steps if tasks take unequal time.
    """
    console = get_console(stderr=True)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield Bar(progress, description, total)


class OutputPath(click.Path):
    """A file or a folder to write to. A path that cannot be written is refused before any work is done.

    Args:
        folder: whether it is a folder, which need not exist. The folder of a file must exist.
        suffixes: the endings that a file may have, such as ``(".json", ".html")``; any if empty.

    Raises:
        InputError: the path has another ending, or nothing can be written there.
    """

    def __init__(self, *, folder: bool, suffixes: Sequence[str] = ()) -> None:
        super().__init__(file_okay=not folder, dir_okay=folder, path_type=Path)
        self.folder = folder
        self.suffixes = tuple(suffixes)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        path = Path(value)
        if reason := self._refusal(path):
            command = f"{ctx.info_name}: " if ctx is not None and ctx.info_name else ""
            option = f"{param.opts[0]} " if param is not None else ""
            raise InputError(f"{command}{option}{path}: {reason}")
        return path

    def _refusal(self, path: Path) -> str:
        """Why nothing can be written at `path`; empty if it can."""
        if self.suffixes and path.suffix not in self.suffixes:
            return f"expected a name that ends in {' or '.join(self.suffixes)}."
        if self.folder:
            nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
        elif path.is_dir():
            return "expected a file, and this is a folder. Choose another name."
        elif not path.absolute().parent.exists():
            return f"there is no folder {path.parent}. Create it first."
        else:
            nearest = path.absolute().parent
        if not nearest.is_dir():
            return f"{nearest} is a file, not a folder. Choose another path."
        try:
            with tempfile.TemporaryFile(dir=nearest) as file:
                file.write(bytes(_LEAST_ROOM))
                file.flush()
                return ""
        except OSError as error:
            remedy = "Make room, or choose" if error.errno in _FULL else "Choose"
            return f"{nearest} cannot be written: {error.strerror}. {remedy} another path."


def out_option(
    *names: str, folder: bool = True, suffixes: Sequence[str] = (), **options: Any
) -> Callable[[_Command], _Command]:
    """A click option for the path of results, ``--out FOLDER`` by default.

        @out_option(default=Path("out/bench"))
        @out_option("--report", "files", folder=False, suffixes=(".json", ".html"), multiple=True, help="...")

    Args:
        names: as `click.option` takes them, such as ``"--report", "files"``; ``--out`` if there are none.
        folder: see :class:`OutputPath`.
        suffixes: see :class:`OutputPath`.
        options: as `click.option` takes them.
    """
    words = {"show_default": True, "help": "Folder of the results.", "metavar": "FOLDER" if folder else "FILE"}
    kind = OutputPath(folder=folder, suffixes=suffixes)
    return click.option(*(names or ("--out",)), type=kind, **{**words, **options})
