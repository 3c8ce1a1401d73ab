"""Tasks and results go through JSON, the published ones too."""

import json
from pathlib import Path

import pytest

from gradreg_bench.task import Measurement, Result, Task
from gradreg_bench.timing import Spread
from gradreg_bench.variants import PLAIN

PUBLISHED = sorted((Path(__file__).parents[3] / "docs" / "performance").glob("*.json"))


def test_results_go_through_json():
    task = Task("torch", "mlp", 8, (1, 4), ("Data*",), 3, 1, "cpu")
    rows = (
        Measurement(PLAIN, Spread(1.0, 1.0, 1.0), 0.1, 1.0, 1000),
        Measurement("DataGrad", Spread(2.5, 2.4, 2.6), 0.25, 2.0, 2000),
        Measurement("vmap(jacrev)", None, None, 11.0, failed="RuntimeError: no rule"),
    )
    result = Result(task, 0.5, "kept", rows)
    values = json.loads(json.dumps(result.to_dict()))
    assert Result.from_dict(values) == result
    assert [row["share_of_limit"] for row in values["measurements"]] == [1.0, 0.8, None]


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_results_are_read_and_written_back_to_the_last_bit(path):
    for values in json.loads(path.read_text())["results"]:
        del values["load"]
        assert json.loads(json.dumps(Result.from_dict(values).to_dict())) == values


@pytest.mark.parametrize(
    ("framework", "backend", "mode"),
    [
        ("torch", "torch", ""),
        ("jax-fast", "jax", "fast"),
        ("tensorflow-xla", "tensorflow", "xla"),
        ("mx-a", "mx-a", ""),
    ],
)
def test_a_framework_is_a_backend_and_a_mode(framework, backend, mode):
    task = Task(framework, "mlp", 8, (), (), 3, 1)
    assert (task.backend, task.mode) == (backend, mode)
