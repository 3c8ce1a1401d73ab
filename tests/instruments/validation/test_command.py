"""``gradreg validate``, its regularizers and its files."""

import json
import sys

import numpy as np
import pytest

from gradreg_core import DataGrad, JacobianPenalty, SpectReg, rademacher
from gradreg_core.cli.arguments import parse_regularizer
from gradreg_core.errors import DataFileError, InputError, InputTypeError, SpecError
from gradreg_validation import save_reference
from gradreg_validation.command import read_batch
from instruments.validation.ports import SAME, Net, X, Y


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("SpectReg(0.01)", SpectReg(0.01)),
        ("DataGrad(0.1) + SpectReg(0.01, seed=3)", DataGrad(0.1) + SpectReg(0.01, seed=3)),
        ("JacobianPenalty(1, projection=rademacher(2))", JacobianPenalty(1.0, projection=rademacher(2))),
    ],
)
def test_a_regularizer_is_read_from_its_short_form(text, wanted):
    assert parse_regularizer(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('x')",
        "SpectReg(open('x'))",
        "SpectReg(0.1).terms",
        "SpectReg(**{'weight': 1})",
        "SpectReg(lambda step: 1)",
        "SpectReg(",
        "rademacher(2)",
        "0.1",
        "OUTPUTS()",
        "",
    ],
)
def test_nothing_but_a_regularizer_is_read(text):
    with pytest.raises(InputError, match="is not a regularizer"):
        parse_regularizer(text)


def test_a_wrong_weight_or_name_keeps_its_own_error():
    with pytest.raises(InputTypeError, match="unexpected keyword argument 'sede'"):
        parse_regularizer("SpectReg(0.1, sede=1)")
    with pytest.raises(SpecError, match="weight must be a finite number"):
        parse_regularizer("SpectReg(-1)")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A directory with models and a batch, in which the command runs."""
    source = (
        "from instruments.validation.ports import Net\nport = Net\nmodel = Net()\nwrong = Net(eps=1e-3)\nnumber = 3\n"
    )
    (tmp_path / "acme_ports.py").write_text(source + "def broken():\n    raise KeyError('weights')\n")
    np.savez(tmp_path / "batch.npz", x=X, y=Y)
    np.savez(tmp_path / "unnamed.npz", X)
    np.savez(tmp_path / "pickled.npz", x=np.array([object()], dtype=object))
    np.save(tmp_path / "single.npy", X)
    (tmp_path / "text.npz").write_text("not an archive")
    (tmp_path / "truncated.npz").write_bytes((tmp_path / "batch.npz").read_bytes()[:200])
    (tmp_path / "names.json").write_text(json.dumps([[name, name] for name in SAME]))
    (tmp_path / "reg.json").write_text(json.dumps({"schema": 1, "kind": "FrobReg", "weight": 2.0}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("acme_ports", None)


@pytest.fixture
def run(gradreg):
    return lambda *arguments: gradreg("validate", *arguments)


def test_the_command_says_that_models_agree(folder, run):
    options = ["--batch", "batch.npz", "--parameters", "names.json", "--reg", "reg.json", "--json", "--step", "4"]
    done = run("acme_ports:model", "acme_ports:port", *options)
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert values["ok"] is True
    assert "penalty FrobReg(2.0)" in [row["quantity"] for row in values["rows"]]
    assert values["draws"] == "step 4, seed 0"


def test_the_command_says_that_models_disagree(folder, run):
    done = run("acme_ports:model", "acme_ports:wrong", "--batch", "batch.npz", "--reg", "SpectReg(0.1)")
    assert done.exit_code == 1
    assert "disagree" in done.stdout
    assert "first layer that differs: norm" in done.stdout


def test_a_saved_reference_and_a_proposed_map_are_taken(folder, run):
    save_reference("saved.npz", Net(), X, Y)
    done = run("saved.npz", "acme_ports:port", "--mapping", "proposed", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["backends"] == ["torch, in saved.npz", "torch"]
    assert run("saved.npz", "acme_ports:wrong").exit_code == 1
    both = run("saved.npz", "acme_ports:port", "--batch", "batch.npz")
    assert both.exit_code == 2
    assert "is in the file" in both.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["acme_ports:model", "acme_ports:absent", "--batch", "batch.npz"], "'acme_ports:absent' cannot be loaded"),
        (["acme_ports:model", "acme_absent:model", "--batch", "batch.npz"], "acme_absent"),
        (["acme_ports:model", "acme_ports", "--batch", "batch.npz"], "expected module:name"),
        (["acme_ports:model", "acme_ports:broken", "--batch", "batch.npz"], "raised KeyError: 'weights'"),
        (["acme_ports:model", "acme_ports:number", "--batch", "batch.npz"], "second model: a model is a callable"),
        (["acme_ports:model", "acme_ports:port", "--batch", "absent.npz"], "absent.npz: cannot be read"),
        (["acme_ports:model", "acme_ports:port", "--batch", "batch.npz", "--reg", "exit()"], "is not a regularizer"),
        (["acme_ports:model", "acme_ports:port", "--batch", "batch.npz", "--layers", "text.npz"], "read as JSON"),
        (["acme_ports:model", "acme_ports:port", "--batch", "batch.npz", "--first-axes", "a"], "expected axes"),
        (["acme_ports:model", "acme_ports:port"], "--batch"),
    ],
)
def test_what_cannot_be_compared_is_status_2(folder, run, arguments, words):
    done = run(*arguments)
    assert done.exit_code == 2, done.output
    assert words in done.stderr


@pytest.mark.parametrize("name", ["unnamed", "pickled", "text", "truncated", "absent"])
def test_a_bad_batch_file_is_named(folder, name):
    with pytest.raises(DataFileError, match=rf"{name}\.npz: "):
        read_batch(f"{name}.npz")


def test_a_single_array_is_no_batch_file(folder):
    with pytest.raises(DataFileError, match="a single array"):
        read_batch("single.npy")
