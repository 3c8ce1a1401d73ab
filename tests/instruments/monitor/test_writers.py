"""Writers, with the real libraries, and the pictures."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gradreg_core.errors import DataFileError, InputError, InputTypeError
from gradreg_monitor import CsvWriter, LivePlot, TensorBoardWriter, WandbWriter, plot
from gradreg_monitor.live import sparkline
from gradreg_monitor.writers import read_csv

VALUES = {"loss": 0.5, "jacobian/frobenius": 2.0, "gradient/cosine": math.nan}
RECORDS: list[dict[str, float]] = [
    {"step": 10.0 * i, "loss": 1 / (1 + i), "penalty": 0.1, "penalty/SpectReg": 0.1, "jacobian/frobenius": 2.0 + i}
    | {"gradient/share": 0.1 * i, "seconds": 0.01}
    for i in range(5)
]


def test_csv_is_complete_after_every_row_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "watch.csv"
    path.write_text("something old")
    CsvWriter(path)(0, VALUES)
    CsvWriter(path, append=True)(10, VALUES | {"loss": 0.25})
    assert path.read_text().splitlines()[0] == "step,loss,jacobian/frobenius,gradient/cosine"
    first, second = read_csv(path)
    assert (first["step"], second["step"], second["loss"]) == (0, 10, 0.25)
    assert math.isnan(first["gradient/cosine"])
    with pytest.raises(InputError, match="has the columns step, loss"):
        CsvWriter(path, append=True)(20, {"loss": 1.0})


@pytest.mark.parametrize("text", [None, "name,value\n1,2\n", "step,loss\n1,two\n", "step,loss\n1\n"])
def test_files_of_others_are_refused(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "watch.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataFileError, match="a monitor's table"):
        read_csv(path)


def events(folder: Path) -> Iterator[Any]:
    """The events in the file of a SummaryWriter: records of a length, a checksum, the event and a checksum."""
    from tensorboardX.proto.event_pb2 import Event

    data, start = next(folder.glob("events*")).read_bytes(), 0
    while start < len(data):
        (size,) = struct.unpack_from("<Q", data, start)
        yield Event.FromString(data[start + 12 : start + 12 + size])
        start += size + 16


def test_tensorboard_gets_a_scalar_per_value(tmp_path: Path) -> None:
    tensorboardx = pytest.importorskip("tensorboardX")
    values = VALUES | {"gradient/cosine": 0.25}
    with tensorboardx.SummaryWriter(str(tmp_path)) as writer:
        TensorBoardWriter(writer)(7, values)
    written = [(event.step, part.tag, part.simple_value) for event in events(tmp_path) for part in event.summary.value]
    assert written == [(7, f"gradreg/{name}", value) for name, value in values.items()]


@pytest.mark.slow
def test_weights_and_biases_offline_on_an_axis_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    with wandb.init(mode="offline", dir=str(tmp_path), project="gradreg") as run:
        run.log({"mine": 1.0}, step=100)
        WandbWriter(run)(7, VALUES)  # a lower step than the last one of the run
        summary = dict(run.summary)
    assert (summary["gradreg/loss"], summary["gradreg/step"]) == (0.5, 7)
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.parametrize("writer", [TensorBoardWriter, WandbWriter])
def test_what_is_no_writer_is_refused(writer: Any) -> None:
    with pytest.raises(InputTypeError, match=f"{writer.__name__}: expected a "):
        writer(print)


def test_the_figure_has_a_panel_per_kind_and_a_line_per_value(tmp_path: Path) -> None:
    figure = plot(RECORDS, tmp_path / "watch.png")
    lines = [{line.get_label() for line in axes.get_lines()} for axes in figure.axes]
    assert lines == [{"loss", "penalty", "penalty/SpectReg"}, {"frobenius"}, {"share"}]
    assert list(figure.axes[1].get_lines()[0].get_ydata()) == [record["jacobian/frobenius"] for record in RECORDS]
    assert (tmp_path / "watch.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_is_drawn_from_a_file_and_not_from_nothing(tmp_path: Path) -> None:
    write = CsvWriter(tmp_path / "watch.csv")
    for record in RECORDS:
        write(int(record["step"]), {name: value for name, value in record.items() if name not in ("step", "seconds")})
    assert len(plot(tmp_path / "watch.csv").axes) == 3
    with pytest.raises(InputError, match="there are no records yet"):
        plot([])


def test_bars_go_from_the_smallest_to_the_largest() -> None:
    assert sparkline([0.0, 3.5, 7.0, math.nan]) == "\u2581\u2585\u2588 "
    assert sparkline([1.0, 1.0]) == "\u2581\u2581"
    assert len(sparkline(list(map(float, range(1000))))) == 40
    assert sparkline([math.inf]) == " "


def test_a_terminal_shows_a_line_per_value(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with LivePlot() as silent:
        silent(0, VALUES)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with LivePlot() as live:
        for step in range(3):
            live(step, {"loss": 1.0 / (1 + step)})
    shown = capsys.readouterr().err
    assert "step 2" in shown
    assert "0.3333" in shown


def test_a_notebook_shows_one_figure_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = pytest.importorskip("IPython.display")
    shown: list[Any] = []
    handle = SimpleNamespace(update=shown.append)
    monkeypatch.setattr(ipython, "display", lambda image, display_id: shown.append(image) or handle)
    live = LivePlot(notebook=True)
    live(0, VALUES)
    live(1, VALUES)
    assert len(shown) == 2
    assert all(image.data.startswith(b"\x89PNG") for image in shown)
