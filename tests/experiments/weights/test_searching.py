"""The experiment on the search: its grid, its rows, and that runs are not done twice."""

from gradreg_core.presets import SpectReg
from gradreg_experiments.demo.recipe import Recipe
from gradreg_experiments.results import Results
from gradreg_experiments.weights import searching
from gradreg_experiments.weights.searching import Protocol, Row, Subject, compare, grid, table

TINY = Subject(
    "digits", Protocol(20, Recipe(steps=2, batch=10)), SpectReg, -1, seeds=1, starts=(0,), decades=1, backend="torch"
)


def test_the_grid_has_two_weights_per_decade_as_the_search_rounds_them():
    assert grid(TINY) == [0.01, 0.0316, 0.1, 0.316, 1.0]


def test_a_search_is_compared_with_the_best_of_the_grid_and_runs_are_kept(digits, tmp_path, monkeypatch):
    results = Results(tmp_path)
    (row,) = compare(TINY, digits, results)
    runs = [run for run in results if run["regularizer"] is None or run["regularizer"]["weight"] in grid(TINY)]
    assert row.best["validation"] == max(run["validation"] for run in runs)
    assert 2 <= row.trainings <= 8
    assert row.none["regularizer"] is None
    assert row.chosen in list(results)
    monkeypatch.setattr(searching, "run_jobs", None)
    assert list(compare(TINY, digits, Results(tmp_path))) == [row]


def test_the_table_counts_searches_within_one_standard_error():
    def row(chosen):
        best, none = {"validation": 0.9, "test": 0.8}, {"validation": 0.7, "test": 0.7}
        return Row(TINY, 0.1, 0, 6, 0.01, {"validation": chosen, "test": 0.75}, best, none)

    assert [row(chosen).is_within for chosen in (0.9, 0.891, 0.889)] == [True, True, False]
    last = table([row(0.9), row(0.889)]).splitlines()[-1]
    assert last == "| digits, 20 | SpectReg(0.1) | 1 of 2 | 6.0 | 70.00 | 75.00 | 80.00 |"
