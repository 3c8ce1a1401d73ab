"""The pages: what was run, what came out, and what was not run."""

from pathlib import Path

import pytest

from gradreg_experiments.paper.experiment import Settings
from gradreg_experiments.paper.experiments import experiments, find_experiment
from gradreg_experiments.paper.page import make_pages
from gradreg_experiments.results import EXPORT, Results
from gradreg_experiments.runner import missing

PUBLISHED = Path(__file__).parents[3] / "docs" / "paper"


@pytest.fixture(scope="module")
def published():
    return Results(PUBLISHED)


@pytest.mark.slow
def test_the_published_page_and_export_are_those_of_the_published_results(published, tmp_path):
    pages = make_pages(PUBLISHED, published)
    assert len(pages) == 1 + len(experiments()), "each was run"
    for name, page in pages.items():
        assert page == (PUBLISHED / name).read_text()
    (tmp_path / EXPORT).write_bytes((PUBLISHED / EXPORT).read_bytes())
    assert Results(tmp_path).export().read_bytes() == (PUBLISHED / EXPORT).read_bytes()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("table1", {}),
        ("table1", {"seeds": range(1, 4), "backend": "jax", "cells": ["dropout/*"]}),
        ("table1", {"seeds": range(1, 4), "backend": "tensorflow", "cells": ["dropout/*"]}),
        *(
            ("figure1-left", {"seeds": range(1, 4), "backend": "jax", "cells": [f"{size}/*"]})
            for size in (500, 1000, 2000, 5000, 10_000, 20_000)
        ),
        *((name, {"seeds": range(1, 4), "backend": "jax"}) for name in ("variants", "beyond", "cost", "figure1-right")),
        ("frameworks", {}),
    ],
)
def test_the_commands_of_the_page_have_nothing_left_to_run(published, name, settings):
    jobs = find_experiment(name).jobs(Settings(**settings))
    assert jobs
    assert missing(jobs, published) == []


@pytest.mark.slow
def test_says_what_was_run_and_what_was_not(add, results, tmp_path):
    (empty,) = make_pages(tmp_path, results).values()
    assert "| table1 | torch | 0 of 90 | 0 |" in empty
    assert empty.count("Not run yet.") == len(experiments()) == 7
    cells = find_experiment("table1").all_cells(Settings())
    for cell, gain in zip(cells[:3], (0.0, 0.5, -0.5), strict=True):
        for seed in (1, 2, 3):
            add(cell, seed, 97 + gain * (1 + 0.01 * seed) + 0.1 * seed)
    pages = make_pages(tmp_path, results)
    assert list(pages) == ["README.md", "table1-all.md"], "the others have nothing but runs of Table 1"
    page, numbers = pages.values()
    assert "| table1 | torch | 9 of 90 | 0 |" in page
    assert "Dropout/SpectReg beats NoGR: +0.51 points over 3 seeds, significant at 5 %" in page
    assert "Dropout/DataGrad does not beat NoGR: -0.51 points" in page
    assert "[All numbers](table1-all.md)" in page
    assert "Dropout/DataGrad does not beat NoGR: -0.51 points" in numbers
    assert "Baseline/DataGrad" not in page + numbers
    for cell in cells[3:5]:
        for seed in (1, 2):
            add(cell, seed, 97 + seed)
    assert "Baseline/SpectReg: +0.00 points over NoGR at each of 2 seeds." in make_pages(tmp_path, results)["README.md"]


@pytest.mark.slow
def test_a_gain_is_over_the_seeds_that_both_have(add, results, tmp_path):
    plain, spectreg, *_ = find_experiment("table1").all_cells(Settings())
    for cell, seeds in ((plain, range(1, 3)), (spectreg, range(1, 6))):
        for seed in seeds:
            add(cell, seed, 97 + 0.1 * seed + (seed % 2 if cell is spectreg else 0))
    assert "NoGR: +0.50 points over 2 seeds, not significant" in make_pages(tmp_path, results)["README.md"]


@pytest.mark.slow
def test_ranks_the_methods_at_each_size(add, results, tmp_path):
    gains = {
        "weight decay": (0.0, 0.0, 0.0),
        "DataGrad": (1.0, -1.0, 0.6),
        "SpectReg": (0.9, 0.8, 1.0),
        "confidence penalty": (-2, 2, -0.3),
    }
    for cell in find_experiment("figure1-left").all_cells(Settings())[:4]:
        for seed, gain in enumerate(gains[cell.column], start=1):
            add(cell, seed, 90 + seed + gain, backend="jax")
    page = make_pages(tmp_path, results)["README.md"]
    assert "\n- 500 images: SpectReg +0.90*, DataGrad +0.20, confidence penalty -0.10\n" in page
