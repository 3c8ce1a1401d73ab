"""The command ``gradreg reproduce``, from end to end on synthetic images."""

import pytest

from gradreg_core.errors import UnsupportedError
from gradreg_experiments.data import mnist
from gradreg_experiments.paper import experiments as package
from gradreg_experiments.paper.experiment import Settings
from gradreg_experiments.paper.experiments import find_experiment
from gradreg_experiments.results import EXPORT, Results


def test_data_are_asked_for(reproduce):
    done = reproduce("table1")
    assert done.exit_code == 2
    assert "train-images-idx3-ubyte" in done.output
    assert "Nothing is downloaded" in done.output


def test_an_unknown_experiment_is_refused(reproduce):
    done = reproduce("tabel1")
    assert done.exit_code == 2
    assert "there is no experiment 'tabel1'. Did you mean 'table1'? There are: table1, figure1-left," in done.output


def test_seeds_train_together_only_where_the_trainer_can(reproduce):
    done = reproduce("figure1-right", "--together", 2, "--steps", 2)
    assert done.exit_code == 2
    assert "--backend jax" in done.output


def test_figure1_left_from_results(reproduce, folder, files, add, tmp_path, tiny):
    settings = Settings(protocol=tiny)
    for cell in find_experiment("figure1-left").all_cells(settings)[:6]:
        add(cell, 1, 91.0, "jax", mnist.digest(files))
    arguments = ["figure1-left", "--backend", "jax", "--data-dir", folder, "--unverified-data", "--report-only"]
    done = reproduce(*arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "figure1-left-jax.png").stat().st_size > 0
    assert "91.00, n = 1" in (tmp_path / "figure1-left-jax.md").read_text()
    usual = (tmp_path / "figure1-left-jax.md").read_bytes()
    done = reproduce(*arguments, "--network", "lenettuned", "--test", "official")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "figure1-left-jax.md").read_bytes() == usual, "other settings have files of their own"
    other = (tmp_path / "figure1-left-jax-network-lenettuned-measure-official.md").read_text()
    assert "(network=lenettuned, measure=official)" in other
    assert not (tmp_path / EXPORT).exists(), "--report-only writes no results"


NEW = """
from dataclasses import replace
from gradreg_core.presets import HoffmanReg
from gradreg_experiments.paper.cells import CellExperiment, no_penalty
from gradreg_experiments.paper.figures import draw_table
from gradreg_experiments.paper.summary import Cell

def _cells(base, choices):
    methods = (("none", no_penalty), ("HoffmanReg", lambda seed: HoffmanReg(0.01, seed=seed)))
    return [Cell("ReLU", column, replace(base, before_last="dropout"), make) for column, make in methods]

EXPERIMENT = CellExperiment(
    name="hoffman", title="Hoffman's estimate", place=8, cells=_cells, draw=draw_table, remark="In one file."
)
"""


@pytest.mark.slow
def test_a_new_experiment_is_one_file(reproduce, folder, tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "hoffman.py").write_text(NEW)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / "modules")])
    options = ["--data-dir", folder, "--unverified-data", "--seeds", 2]
    done = reproduce("hoffman", *options)
    assert done.exit_code == 0, done.output
    assert "4 of 4 runs done now" in done.output
    assert "`HoffmanReg(0.01)`" in (tmp_path / "hoffman-torch.md").read_text()
    assert (tmp_path / "hoffman-torch.svg").stat().st_size > 0
    assert len(Results(tmp_path)) == 4
    assert reproduce("page").exit_code == 0
    page = (tmp_path / "README.md").read_text()
    assert "## Hoffman's estimate\n\nNot run yet." in page, "of MNIST itself"
    assert "| hoffman | torch | 0 of 20 | 0 |" in page
    assert "hoffman" in reproduce("nothing").output


def test_a_backend_that_does_not_train_is_refused(reproduce):
    with pytest.raises(UnsupportedError, match="numpy backend does not train"):
        find_experiment("figure1-right").run_jobs(find_experiment("figure1-right").jobs(Settings(backend="numpy"))[:1])
    done = reproduce("figure1-right", "--backend", "numpy")
    assert done.exit_code == 2
    assert "choose one of torch, jax, tensorflow" in done.output
