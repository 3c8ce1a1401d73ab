"""Statistics of the cells."""

import numpy as np
import pytest
from scipy import stats

from gradreg_core.presets import DataGrad
from gradreg_experiments.paper.experiment import Settings
from gradreg_experiments.paper.experiments import find_experiment
from gradreg_experiments.paper.summary import Cell, summarise
from gradreg_experiments.results import Results


def test_numbers_against_scipy(tiny, add, results):
    cells = [
        Cell("row", "NoGR", tiny, lambda seed: None, paper=(97.0, 0.2)),
        Cell("row", "DataGrad", tiny, lambda seed: DataGrad(1.0), paper=(98.0, 0.1)),
    ]
    base, ours = [97.1, 97.3, 96.9, 97.2], [97.9, 98.3, 97.8]
    for cell, values in zip(cells, (base, ours), strict=True):
        for seed, value in enumerate(values, 1):
            add(cell, seed, value, data="x")
    plain, gained = summarise(cells, range(1, 11), "torch", "x", results)
    assert plain.mean == pytest.approx(np.mean(base))
    assert plain.deviation == pytest.approx(np.std(base, ddof=1))
    assert plain.difference == pytest.approx(np.mean(base) - 97.0)
    assert plain.gain is None
    assert gained.gain == pytest.approx(np.mean(np.array(ours) - base[:3]))
    assert gained.p_gain == pytest.approx(stats.ttest_rel(ours, base[:3]).pvalue)
    theirs = np.random.default_rng(0).standard_normal(10)
    theirs = 98.0 + 0.1 * (theirs - theirs.mean()) / theirs.std(ddof=1)
    assert gained.p_paper == pytest.approx(stats.ttest_ind(ours, theirs, equal_var=False).pvalue)


def test_what_was_not_run_is_not_claimed():
    rows = summarise(find_experiment("table1").all_cells(Settings()), [1], "torch", "x", Results())
    assert all(row.mean is None for row in rows)
