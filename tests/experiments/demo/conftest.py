"""Fixtures of the demo: a comparison of a few steps, run once."""

import pytest
from click.testing import CliRunner

from gradreg_experiments.demo.command import demo
from gradreg_experiments.demo.experiment import Settings, experiment
from gradreg_experiments.demo.recipe import Recipe

TINY = Settings(
    train_size=20,
    seeds=1,
    tuning_seeds=1,
    recipe=Recipe(steps=4, batch=10),
    grid_limit=2,
    jacobian_points=20,
    workers=1,
)


@pytest.fixture(scope="session")
def settings():
    return TINY


@pytest.fixture(scope="session")
def outcome(digits):
    return experiment(digits, TINY)


@pytest.fixture
def run_demo(tmp_path):
    """A function that runs the command, with results in a folder of the test unless another is given."""

    def run(*arguments, out=tmp_path):
        return CliRunner().invoke(demo, [*map(str, arguments), "--out", str(out)], catch_exceptions=False)

    return run
