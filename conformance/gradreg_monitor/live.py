"""A live view of the records: a figure in a notebook, lines of bars in a terminal."""

import math
import sys
from collections.abc import Sequence
from io import BytesIO
from typing import Any

from gradreg_monitor.figure import draw

__all__ = ["LivePlot", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_WIDTH = 40
"""The number of bars per line."""


class LivePlot:
    """A writer that shows the records: in a notebook as a figure that is redrawn, in a terminal as a line per value.

    Other outputs show nothing. In a terminal call `close` at the end, or use it in a ``with`` statement.

    Args:
        notebook: whether to draw a figure for a notebook; None detects where the program runs.
    """

    def __init__(self, *, notebook: bool | None = None) -> None:
        self.notebook = _in_notebook() if notebook is None else notebook
        self.rows: list[dict[str, float]] = []
        self._shown: Any = None

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """Show a record with all earlier ones."""
        self.rows.append({"step": step, **values})
        if self.notebook:
            self._draw()
        else:
            self._print()

    def close(self) -> None:
        """Keep the current view, and release the terminal."""
        if not self.notebook and self._shown is not None:
            self._shown.stop()
            self._shown = None

    def __enter__(self) -> "LivePlot":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _draw(self) -> None:
        from IPython.display import Image, display
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 3.1), layout="constrained")
        draw(figure, self.rows)
        drawn = BytesIO()
        figure.savefig(drawn, format="png", dpi=100)
        image = Image(drawn.getvalue())  # works without a chosen Matplotlib backend
        if self._shown is None:
            self._shown = display(image, display_id=True)
        else:
            self._shown.update(image)

    def _print(self) -> None:
        from rich.live import Live

        from gradreg_core.cli.terminal import get_console

        console = get_console(stderr=True)
        if not console.is_terminal:
            return
        if self._shown is None:
            self._shown = Live(console=console, auto_refresh=False)
            self._shown.start()
        self._shown.update(self._table(), refresh=True)

    def _table(self) -> Any:
        from gradreg_core.cli.terminal import make_table

        last = self.rows[-1]
        table = make_table([f"step {last['step']:.0f}", "last", "first to last"], right=["last"])
        for name, value in last.items():
            if name != "step":
                table.add_row(name, f"{value:.4g}", sparkline([row.get(name, math.nan) for row in self.rows]))
        return table


def sparkline(numbers: Sequence[float], width: int = _WIDTH) -> str:
    """Bars between the smallest and the largest number, at most `width` of them; a space for a missing number."""
    if len(numbers) > width:
        numbers = [numbers[index * (len(numbers) - 1) // (width - 1)] for index in range(width)]
    finite = [number for number in numbers if math.isfinite(number)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    top = len(_BARS) - 1

    def bar(number: float) -> str:
        if not math.isfinite(number):
            return " "
        return _BARS[round(top * (number - low) / (high - low)) if high > low else 0]

    return "".join(map(bar, numbers))


def _in_notebook() -> bool:
    """Whether the program runs in a notebook's kernel."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", {})
