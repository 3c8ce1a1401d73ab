"""The page is made from the published results, which are those of the tasks and forms as they are."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from gradreg_experiments.results import Results
from gradreg_experiments.weights.__main__ import RUNS, key, main
from gradreg_experiments.weights.page import make_page
from gradreg_experiments.weights.rules import RULES

PUBLISHED = Path(__file__).parents[3] / "docs" / "weights"


@pytest.fixture(scope="module")
def published():
    return Results(PUBLISHED)


def test_the_published_page_is_that_of_the_published_results(published):
    assert make_page(published) == (PUBLISHED / "README.md").read_text()


def test_the_command_of_the_page_has_nothing_left_to_run(published):
    assert {key(task, rule) for task, rules in RUNS for rule in rules} == {result["key"] for result in published}


def test_every_run_has_its_seeds_and_settings(published):
    seeds = {task.name: task.seeds for task, _ in RUNS}
    settings = {(rule.name, rule.penalty): [list(map(float, values)) for values in rule.settings] for rule in RULES}
    for result in published:
        assert [run["setting"] for run in result["runs"]] == settings[result["rule"], result["penalty"]]
        assert {len(run[name]) for run in result["runs"] for name in ("validation", "test")} == {seeds[result["task"]]}


def test_without_results_the_page_says_so(tmp_path):
    done = CliRunner().invoke(main, ["--page-only", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "README.md").read_text().count("Not run yet.") == 5
