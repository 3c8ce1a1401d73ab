"""The page is made from the published results; penalties are those of explicit Jacobians."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from gradreg_experiments.evidence.__main__ import main
from gradreg_experiments.evidence.experiment import CHECKPOINTS, METHODS, TASKS, key
from gradreg_experiments.evidence.page import make_page
from gradreg_experiments.evidence.summary import Gain, chosen, compare, verdict
from gradreg_experiments.evidence.training import activations, penalties
from gradreg_experiments.results import Results
from gradreg_experiments.weights.tasks import initial

PUBLISHED = Path(__file__).parents[3] / "docs" / "evidence"


def test_the_published_page_is_that_of_the_published_results():
    assert make_page(Results(PUBLISHED)) == (PUBLISHED / "README.md").read_text()


def test_published_runs_are_those_of_the_record_as_it_is():
    records = {key(task, method): (task, method) for task in TASKS for method in METHODS}
    results = list(Results(PUBLISHED))
    assert results
    for result in results:
        task, method = records[result["key"]]
        assert tuple(run["setting"] for run in result["outcomes"]) == method.settings
        assert {len(run["test"]) for run in result["outcomes"]} == {len(CHECKPOINTS)}
        assert {len(seeds) for run in result["outcomes"] for seeds in run["test"]} == {task.seeds}


def test_all_methods_but_the_plain_one_try_as_many_settings():
    assert len({len(method.settings) for method in METHODS[1:]}) == 1


def test_without_results_the_page_says_so(tmp_path):
    done = CliRunner().invoke(main, ["--page-only", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert (tmp_path / "README.md").read_text().count("Not run yet.") == 8


def test_after_no_minutes_nothing_is_run(tmp_path):
    done = CliRunner().invoke(main, ["--minutes", "0", "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    assert not list(Results(tmp_path))


@pytest.mark.parametrize("method", ["SpectReg", "DataGrad", "layer-wise"])
@pytest.mark.parametrize("task", [task for task in TASKS if task.data == "wine"], ids=lambda task: task.activation)
def test_penalties_are_those_of_explicit_jacobians(task, method):
    """Float64 against Jacobians that autograd forms row by row; both round about a hundred times, hence 1e-10."""
    params = [array.double()[None] for array in initial(task, (13,), 0)]
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 3, 13, generator=generator, dtype=torch.float64)
    y = torch.tensor([0, 2, 1])
    layers = activations(task, params, x.clone().requires_grad_())
    losses = torch.nn.functional.cross_entropy(layers[-1][0], y, reduction="none")[None]
    drawn = []

    def draw(like):
        drawn.append(torch.randn(like.shape, generator=generator, dtype=torch.float64))
        return drawn[-1]

    value = penalties(layers, losses, method, draw)

    def place(start, stop):
        """The part of one sample's network from one place to another."""

        def part(a):
            own = params[2 * start : 2 * stop]
            # An identity layer more, where the part ends in an activation: the last layer has none.
            ends = [] if stop == 3 else [torch.eye(64, dtype=torch.float64)[None], torch.zeros(1, 1, 64).double()]
            return activations(task, own + ends, a[None, None])[-1][0, 0]

        return part

    total = 0.0
    for sample in range(3):
        pairs = [(0, 1), (1, 2), (2, 3)] if method == "layer-wise" else [(0, 3)]
        for index, (start, stop) in enumerate(pairs):
            jacobian = torch.autograd.functional.jacobian(place(start, stop), layers[start][0, sample].detach())
            if method == "DataGrad":
                row = layers[-1][0, sample].softmax(0) - torch.eye(3, dtype=torch.float64)[y[sample]]
            else:
                row = drawn[index][0, sample]
            total += float((jacobian.T @ row).detach().square().sum()) / 3
    assert value.item() == pytest.approx(total, rel=1e-10)


def test_settings_are_chosen_on_validation_samples_and_compared_in_pairs():
    def run(setting, validation, test):
        return {"setting": setting, "validation": [[validation] * 3] * 5, "test": [test] * 5}

    first = {"outcomes": [run(1.0, 90.0, [70.0, 80.0, 91.0]), run(2.0, 80.0, [99.0, 99.0, 99.0])]}
    second = {"outcomes": [run(0.0, 50.0, [69.0, 78.0, 88.0])]}
    assert chosen(first)["setting"] == 1.0
    gain = compare(first, second)
    # Student's t with two degrees of freedom is 4.3027, the differences are 1, 2, 3 with deviation 1.
    assert (gain.mean, gain.half) == (pytest.approx(2.0), pytest.approx(4.3027 / 3**0.5, rel=1e-4))
    assert gain.sign == 0


def test_verdicts_follow_the_intervals():
    up, open_, down = Gain(2.0, 1.0), Gain(0.5, 1.0), Gain(-2.0, 1.0)
    assert [verdict(down, up), verdict(open_, up)] == ["do not use it here", "do not expect accuracy"]
    assert [verdict(up, over) for over in (up, open_, down)] == ["use it", "use it, or the rival", "use the rival"]
