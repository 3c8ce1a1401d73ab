"""Console, tables, progress bar and `--out`."""

import io
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from gradreg_core.cli import terminal
from gradreg_core.cli.terminal import get_console, make_table, out_option, progress_bar
from gradreg_core.errors import InputError


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def tty(monkeypatch):
    """A function that makes stdout and stderr a terminal of 60 columns, and returns it."""
    monkeypatch.setenv("TERM", "xterm-16color")
    monkeypatch.setenv("COLUMNS", "60")
    for variable in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM"):
        monkeypatch.delenv(variable, raising=False)

    def replace():
        stream = Terminal()
        monkeypatch.setattr("sys.stdout", stream)
        monkeypatch.setattr("sys.stderr", stream)
        return stream

    return replace


def example():
    table = make_table(["name", "number"], right=["number"], title="A title")
    table.add_row("[a] :smile:", "1.0")
    table.add_row("long " * 20, "20.0", style="bold")
    return table


def test_piped_output_is_plain_and_wide(capsys, monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    console = get_console()
    assert console.width == 200
    console.print(example())
    console.print("[x] " + 300 * "y", style="red")
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "A title",
        "name" + 98 * " " + "number",
        "[a] :smile:" + 94 * " " + "1.0",
        "long " * 20 + "    20.0",
        "[x] " + 300 * "y",
    ]


def test_a_terminal_has_its_own_width_and_colours(tty, monkeypatch):
    stream = tty()
    console = get_console()
    assert console.width == 60
    console.print("text", style="red")
    assert stream.getvalue() == "\x1b[31mtext\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    get_console().print("plain", style="red")
    assert stream.getvalue().endswith("\nplain\n")


def test_numbers_are_aligned_and_never_wrapped(tty):
    stream = tty()
    get_console().print(example())
    lines = [click.unstyle(line).rstrip() for line in stream.getvalue().splitlines()]
    assert len(lines) > 4
    assert {len(line) for line in lines if line.endswith((".0", "number"))} == {60}


def test_a_bar_moves_in_a_terminal(tty):
    stream = tty()
    with progress_bar("[first]", 4) as bar:
        bar.advance(3)
        bar.describe("then")
        bar.advance()
    shown = click.unstyle(stream.getvalue())
    assert "[first]" in shown
    assert "4/4" in shown
    assert "then" in shown


def test_no_bar_is_piped(capsys):
    with progress_bar("first", 4) as bar:
        bar.advance(4)
    assert capsys.readouterr() == ("", "")


# --- --out ---------------------------------------------------------------------------------------------------------


@click.command()
@out_option(default=Path("out/acme"))
@out_option("--report", "files", folder=False, suffixes=(".json", ".html"), multiple=True, help="Write a report.")
def acme(out, files):
    """A command."""
    click.echo(f"{out} {' '.join(map(str, files))}")


def invoke(*arguments):
    return CliRunner().invoke(acme, list(map(str, arguments)), standalone_mode=False)


def test_places_that_can_be_written_are_taken(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert invoke().output == "out/acme \n"
    assert invoke("--out", tmp_path / "new" / "folder").output == f"{tmp_path}/new/folder \n"
    assert invoke("--out", ".", "--report", "a.json", "--report", "b.html").output == ". a.json b.html\n"
    assert list(tmp_path.iterdir()) == []


def test_the_help_names_place_and_default():
    shown = " ".join(CliRunner().invoke(acme, ["--help"]).output.split())
    assert "--out FOLDER Folder of the results. [default: out/acme]" in shown
    assert "--report FILE Write a report." in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "file.json"], r"--out file\.json: .*file\.json is a file, not a folder\. Choose another path\."),
        (
            ["--out", "file.json/a"],
            r"--out file\.json/a: .*file\.json is a file, not a folder\. Choose another path\.",
        ),
        (["--out", "/proc/acme"], r"--out /proc/acme: /proc cannot be written: .*\. Choose another path\."),
        (["--report", "a.txt"], r"--report a\.txt: expected a name that ends in \.json or \.html\."),
        (["--report", "no/a.json"], r"--report no/a\.json: there is no folder no\. Create it first\."),
        (["--report", "folder.json"], r"--report folder\.json: expected a file, and this is a folder\. Choose another"),
        (["--report", "/proc/a.json"], r"--report /proc/a\.json: /proc cannot be written: .*\. Choose another path\."),
    ],
)
def test_places_that_cannot_be_written_are_refused_at_once(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.json").write_text("")
    (tmp_path / "folder.json").mkdir()
    result = invoke(*arguments)
    assert isinstance(result.exception, InputError)
    assert result.output == ""
    with pytest.raises(InputError, match=f"^acme: {message}"):
        raise result.exception


def test_an_unwritable_folder_is_refused(tmp_path, monkeypatch):
    def refuse(**options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(terminal.tempfile, "TemporaryFile", refuse)
    message = f"acme: --out {tmp_path}: {tmp_path} cannot be written: Permission denied. Choose another path."
    assert str(invoke("--out", tmp_path).exception) == message
