"""The command ``gradreg demo``, end to end and quick: what it writes, and what it refuses."""

import json
from dataclasses import replace

import matplotlib.image
import numpy as np
import pytest
import torch

from gradreg_core.errors import BackendNotFoundError, InputError, UnsupportedError
from gradreg_experiments.demo import checks, command
from gradreg_experiments.demo.methods import METHODS


def test_it_writes_table_picture_and_numbers(run_demo, settings, tmp_path, monkeypatch):
    monkeypatch.delenv("GRADREG_BACKEND", raising=False)
    monkeypatch.setattr(command, "_QUICK", settings)
    out = tmp_path / "new" / "folder"
    done = run_demo("--quick", "--seeds", 2, "--train-size", 40, out=out)
    assert done.exit_code == 0
    assert "--quick" in done.output
    assert "the numbers mean nothing" in done.output
    assert sorted(path.name for path in out.glob("[!.]*")) == ["demo.png", "results.json"]
    numbers = json.loads((out / "results.json").read_text())
    assert numbers["settings"]["train_size"] == 40
    assert numbers["settings"]["backend"] == "torch"
    assert numbers["versions"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert list(numbers["methods"]) == [method.name for method in METHODS]
    for name, method in numbers["methods"].items():
        accuracies = [100 * run["accuracy"] for run in method["runs"]]
        assert [run["seed"] for run in method["runs"]] == [0, 1]
        assert method["test_accuracy_percent"]["mean"] == pytest.approx(np.mean(accuracies))
        assert method["test_accuracy_percent"]["sd"] == pytest.approx(np.std(accuracies, ddof=1))
        assert f"{np.mean(accuracies):.2f} ± {np.std(accuracies, ddof=1):.2f}" in done.output
        assert all(run["jacobian_frobenius"] > 0 and run["seconds"] > 0 for run in method["runs"])
        assert name in done.output
        tried = method["validation_accuracy"]
        assert len(tried) == (0 if name == "none" else 2)
        assert not tried or tried[f"{method['chosen']:g}"] == max(tried.values())
    picture = matplotlib.image.imread(out / "demo.png")
    assert picture.shape[1] >= 1600
    coloured = np.ptp(picture[..., :3], axis=-1) > 0.3
    assert 0.001 < coloured.mean() < 0.2
    assert coloured[:, : picture.shape[1] // 2].any()
    assert coloured[:, picture.shape[1] // 2 :].any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--backend", "numpy"], UnsupportedError, "numpy backend does not train; choose one of torch, jax"),
        (["--backend", "torhc"], BackendNotFoundError, "Did you mean 'torch'"),
        (["--backend", "torch", "--backend", "jax"], InputError, "expected one --backend without --compare"),
        (["--train-size", 598], InputError, "must be between 1 and 597"),
    ],
)
def test_bad_arguments_are_refused(run_demo, settings, tmp_path, monkeypatch, arguments, error, message):
    monkeypatch.setattr(command, "_QUICK", replace(settings, workers=1))
    with pytest.raises(error, match=message) as caught:
        run_demo("--quick", *arguments)
    assert not getattr(caught.value, "__notes__", []), "the same command would fail again"
    assert not list(tmp_path.glob("[!.]*"))


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(run_demo, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, not a folder"):
        run_demo(out=tmp_path / "file" / "below")


def test_the_backend_comes_from_the_environment(run_demo, monkeypatch):
    monkeypatch.setenv("GRADREG_BACKEND", "numpy")
    with pytest.raises(UnsupportedError, match="numpy backend does not train"):
        run_demo()


@pytest.mark.slow
def test_without_quick_every_backend_is_held_against_the_reference(run_demo, settings, monkeypatch):
    monkeypatch.setattr(command, "Settings", lambda **fields: replace(settings, **fields))
    monkeypatch.setattr(checks, "usable", lambda: (("torch",), {}))
    lines = [line.split() for line in run_demo("--backend", "torch").output.splitlines() if "agrees" in line]
    assert [line[:2] for line in lines] == [["torch", "float32"], ["torch", "float64"]]
    assert all(float(error) < 1e-12 for error in lines[1][2:5])


def test_a_wrong_backend_disagrees(monkeypatch):
    torch_matmul = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: torch_matmul(a, b) * (1 + 1e-3))
    assert [agrees for _, _, agrees in checks.compare_with_reference("torch")] == [False, False]
