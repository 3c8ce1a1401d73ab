"""Fixtures of the reproduction."""

from dataclasses import replace

import pytest
from click.testing import CliRunner

from gradreg_core.cli.main import main
from gradreg_experiments.data.mnist import MNIST_DIGEST
from gradreg_experiments.paper import command
from gradreg_experiments.results import Results


@pytest.fixture
def results(tmp_path):
    """An empty folder's."""
    return Results(tmp_path)


@pytest.fixture
def add(results):
    """A function that adds a run of a cell with an accuracy."""

    def add_run(cell, seed, accuracy, backend="torch", data=MNIST_DIGEST):
        job = cell.job(seed, backend, data)
        results.add({"key": job.key, "backend": backend, "accuracy": {"test": accuracy, "official": accuracy}})

    return add_run


@pytest.fixture
def reproduce(tmp_path, tiny, monkeypatch):
    """A function that runs the command with the tiny protocol, and results in a folder of the test."""
    monkeypatch.setattr(command, "Protocol", lambda **fields: replace(tiny, **fields))

    def run(*arguments):
        words = ["reproduce", *map(str, arguments), "--out", str(tmp_path)]
        return CliRunner().invoke(main, words, catch_exceptions=False)

    return run
