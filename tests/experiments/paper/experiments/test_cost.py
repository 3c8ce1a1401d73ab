"""Accuracy over the cost of a step."""

import pytest

from gradreg_core.errors import DataFileError
from gradreg_experiments.paper.experiment import Settings
from gradreg_experiments.paper.experiments import cost
from gradreg_experiments.paper.summary import summarise


def test_of_another_network_is_refused(reproduce, folder):
    done = reproduce("cost", "--report-only", "--network", "lenettuned")
    assert done.exit_code == 2
    assert "the cost of a step is that of lenet" in done.output


def test_points(add, results):
    cells = cost.EXPERIMENT.all_cells(Settings())[:3]
    for cell, gain in zip(cells, (0.0, 0.8, 0.6), strict=True):
        for seed in (1, 2):
            add(cell, seed, 97 + gain + 0.1 * seed, data="x")
    summaries = summarise(cells, [1, 2], "torch", "x", results)
    points = cost.points(summaries, {"DataGrad/every=1": 2.4, "DataGrad/every=2": 1.7})
    assert [point.cost for point in points] == [1.0, 2.4, 1.7]
    assert [point.part for point in points[1:]] == pytest.approx([1.0, 0.75])
    assert cost.table_rows(points)[2] == ("DataGrad/every=2", "1.70", "2", "97.75 (0.07)", "+0.60", "-", "75 %")
    assert len(cost.points(summaries, {})) == 1  # without a cost a setting has no place in the figure


def test_a_file_that_holds_no_costs_is_refused(tmp_path):
    (tmp_path / "cost.json").write_text("{}")
    with pytest.raises(DataFileError, match="Remove the file"):
        cost.read_costs(tmp_path / "cost.json")


@pytest.mark.slow
def test_steps_are_measured_and_drawn(reproduce, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "_REPEATS", 3)
    cells = ["--cells", "DataGrad/none", "--cells", "DataGrad/every=4", "--seeds", 1, "--steps", 2]
    done = reproduce("cost", "--data-dir", folder, "--unverified-data", *cells)
    assert done.exit_code == 0, done.output
    assert "| DataGrad/every=4 |" in done.output
    costs = cost.read_costs(tmp_path / "cost-torch-steps-2.json")
    assert set(costs) >= {"plain", "DataGrad/every=16", "SpectReg/jvp"}
    assert all(ratio > 0 for ratio in costs.values())
    assert "<svg" in (tmp_path / "cost-torch-steps-2.svg").read_text()
