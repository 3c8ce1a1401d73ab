"""Tables of summaries."""

from gradreg_experiments.paper import tables
from gradreg_experiments.paper.experiment import Settings
from gradreg_experiments.paper.experiments import find_experiment
from gradreg_experiments.paper.summary import summarise
from gradreg_experiments.results import Results


def test_what_was_not_run_is_not_claimed(add, results):
    cells = find_experiment("table1").all_cells(Settings())
    rows = summarise(cells, [1], "torch", "x", Results())
    headings, lines = tables.table(rows)
    assert headings[4] == "paper (sd)"
    assert lines == []
    assert tables.grid(rows).count("\n") == 1, "no row"
    add(cells[0], 1, 97.0, data="x")
    add(cells[4], 1, 97.5, data="x")
    lines = tables.grid(summarise(cells, [1], "torch", "x", results)).splitlines()
    assert lines[0] == "|  | NoGR | SpectReg |", "no column without a run"
    assert lines[2].endswith("| not run<br>paper: 97.65 (0.14) |")


def test_where_the_paper_has_no_numbers_its_columns_are_left_out(add, results):
    cells = find_experiment("figure1-left").all_cells(Settings())
    add(cells[1], 1, 97.0, data="x")
    rows = summarise(cells, [1], "torch", "x", results)
    assert tables.table(rows) == (
        ["cell", "penalty", "seeds", "accuracy % (sd)", "gain over weight decay", "p of gain"],
        [["500/DataGrad", "`DataGrad(50.0)`", "1", "97.00", "-", "-"]],
    )
    assert tables.grid(rows).splitlines()[2:] == ["| 500 | 97.00, n = 1 |"]
