"""Figure 1, right: sin(5x)."""

import pytest

from gradreg_core.presets import SpectReg
from gradreg_experiments.paper.experiments.figure1_right import run_toys, toy_jobs, weight_of


def test_flatter_with_more_weight():
    plain, penalised = (run_toys([job])[0] for job in toy_jobs([1], "torch", steps=80, weights=(0.0, 30.0)))
    for place in ("train", "random"):
        assert penalised["gradient"][place] < 0.5 * plain["gradient"][place]
    assert len(plain["curve"]) == 401


def test_weights_are_relative_to_a_sum():
    (job,) = toy_jobs([1], "torch", weights=(10.0,))
    assert job.regularizer == SpectReg(0.2, seed=1, draw="per_batch")
    assert weight_of(job) == 10.0


@pytest.mark.slow
def test_the_command_draws_it_and_runs_nothing_twice(reproduce, tmp_path):
    arguments = ["figure1-right", "--seeds", 1, "--steps", 3]
    assert "7 of 7 runs done now" in reproduce(*arguments).output
    assert "| 10 | 1 |" in (tmp_path / "figure1-right-torch.md").read_text()
    assert (tmp_path / "figure1-right-torch.svg").stat().st_size > 0
    assert "0 of 7 runs done now" in reproduce(*arguments).output
