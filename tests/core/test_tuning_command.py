"""``gradreg tune``: its files, its errors, and how it continues where it stopped."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gradreg_core import SpectReg, from_dict
from gradreg_core.cli.main import main

SOURCE = """
import math
calls = []

def fit(reg, seed):
    calls.append((reg, seed))
    weight = 0.0 if reg is None else reg.terms[0].weight
    score = 0.9 if weight == 0 else 0.95 - 0.02 * math.log10(weight / 0.03) ** 2
    return score + 0.001 * seed, 1 / (1 + weight / 0.03)

def broken(reg, seed):
    raise KeyError("weights\\nof the second layer")

def text(reg, seed):
    return "good"

def stopped(reg, seed):
    if len(calls) == 1:
        raise KeyboardInterrupt
    return fit(reg, seed)

def other(x):
    return x

number = 3
"""


@pytest.fixture
def tune(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """A function that runs the command where a module of that name lies."""
    name = f"acme_fits_{abs(hash(request.node.name))}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run(function: str, *arguments: str) -> Result:
        return CliRunner().invoke(main, ["tune", f"{name}:{function}", "--reg", "SpectReg(0.01)", *arguments])

    run.name = name  # type: ignore[attr-defined]
    return run


def test_it_prints_the_table_and_writes_table_choice_and_picture(tune: Any, tmp_path: Path) -> None:
    done = tune("fit", "--out", "tuned", "--validation-size", "300", "--seeds", "2", "--trainings", "12")
    assert done.exit_code == 0, done.output
    assert "Best: SpectReg(" in done.output
    table = (tmp_path / "tuned" / "table.txt").read_text()
    assert table == done.stdout
    best = from_dict(json.loads((tmp_path / "tuned" / "regularizer.json").read_text()))
    assert 0.01 <= best.terms[0].weight <= 0.1
    assert (tmp_path / "tuned" / "weights.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "tuned" / "trainings.jsonl").read_text().count("\n") <= 12


def test_a_second_call_trains_only_what_is_new(tune: Any) -> None:
    first = tune("fit", "--out", "tuned", "--no-plot", "--trainings", "3")
    module = __import__(tune.name)
    assert len(module.calls) == 3
    again = tune("fit", "--out", "tuned", "--no-plot", "--trainings", "3")
    assert (len(module.calls), again.output) == (3, first.output)
    assert tune("fit", "--out", "tuned", "--no-plot", "--trainings", "5").exit_code == 0
    assert len(module.calls) == 5
    assert len(set(module.calls)) == 5
    assert module.calls[1] == (SpectReg(0.01), 0)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("broken", [], "raised KeyError with None and seed 0"),
        ("text", [], "fit must return a score"),
        ("other", [], "must be a function of (reg, seed)"),
        ("number", [], "must be a function of (reg, seed)"),
        ("missing", [], "cannot be loaded"),
        ("fit", ["--reg", "SpectReg(0)"], "must be a number above 0"),
        ("fit", ["--reg", "open('x')"], "is not a regularizer"),
        ("fit", ["--trainings", "1"], "trainings must be an integer of at least 2"),
        ("fit", ["--out", "a_file/tuned"], "is a file, not a folder"),
    ],
)
def test_an_error_is_one_line_and_the_status_is_2(tune: Any, function: str, arguments: list[str], message: str) -> None:
    Path("a_file").write_text("")
    done = tune(function, *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: tune: ") or done.stderr.startswith("error: search: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_search_that_is_stopped_says_how_to_go_on(tune: Any) -> None:
    done = tune("stopped", "--out", "tuned", "--no-plot")
    assert done.exit_code == 130
    assert "The finished trainings are kept in tuned. To continue: main tune " in done.stderr
    assert tune("fit", "--out", "tuned", "--no-plot", "--trainings", "3").exit_code == 0
    assert len(__import__(tune.name).calls) == 3


def test_importing_ends_within_the_timeout(tmp_path: Path) -> None:
    (tmp_path / "hanging.py").write_text("import time\ntime.sleep(60)")
    code = "import sys; from gradreg_core.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "tune", "hanging:fit", "--reg", "SpectReg(1)", "--timeout", "0.3"]
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=path, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: tune: importing hanging did not return within 0.3 seconds.")
