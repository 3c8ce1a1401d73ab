"""The experiments' cells: the paper's settings, shared runs, and choosing among them."""

import pytest

from gradreg_core.errors import InputError
from gradreg_core.presets import DataGrad, SpectReg
from gradreg_experiments.paper.cells import select
from gradreg_experiments.paper.experiment import Settings
from gradreg_experiments.paper.experiments import find_experiment
from gradreg_experiments.paper.experiments.figure1_left import SIZES
from gradreg_experiments.paper.protocol import Choices


def cells_of(name, **settings):
    return find_experiment(name).all_cells(Settings(**settings))


def keys_of(name):
    return {cell.name: cell.job(1, "torch", "x").key for cell in cells_of(name)}


def test_table1_is_the_papers():
    cells = {cell.name: cell for cell in cells_of("table1")}
    assert len(cells) == 9
    assert cells["Dropout/DataGrad"].paper == (97.98, 0.12)
    assert cells["Dropout/DataGrad"].make(1) == DataGrad(50.0)
    assert cells["Batchnorm/SpectReg"].make(4) == SpectReg(0.001, seed=4, draw="per_batch")


def test_figure1_left_has_six_methods_at_every_size_and_the_codes_jacreg():
    assert len(cells_of("figure1-left")) == 6 * len(SIZES)
    weights = {
        choice: [
            cell.make(1).terms[0].weight
            for cell in cells_of("figure1-left", choices=Choices(jacreg=choice))
            if cell.column == "JacReg"
        ]
        for choice in ("code", "tuned")
    }
    assert weights["code"][2] == 0.03
    assert weights["tuned"][2] == 1.0


def test_shared_cells_are_one_run():
    assert len(set(keys_of("table1").values()) & set(keys_of("variants").values())) == 2  # NoGR, DataGrad, dropout
    cost, table = keys_of("cost"), keys_of("table1")
    assert cost["DataGrad/none"] == cost["SpectReg/none"] == table["Dropout/NoGR"]
    assert cost["DataGrad/every=1"] == table["Dropout/DataGrad"]
    assert len(set(cost.values())) == len(cost) - 1


def test_first_seeds_come_first():
    jobs = find_experiment("table1").jobs(Settings(seeds=[1, 2]))
    assert [job.seed for job in jobs] == [1] * 9 + [2] * 9


def test_select():
    cells = cells_of("table1")
    names = [cell.name for cell in select(cells, ["dropout/*"])]
    assert names == ["Dropout/NoGR", "Dropout/SpectReg", "Dropout/DataGrad"]
    assert select(cells, []) == cells
    with pytest.raises(InputError, match="matches none of Dropout/NoGR"):
        select(cells, ["Dropuot/*"])
