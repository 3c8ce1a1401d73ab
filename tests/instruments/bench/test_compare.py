"""Ratios then and now, on made-up results; nothing is timed."""

import json

import pytest

from gradreg_bench.compare import changes, read_results
from gradreg_bench.report import as_json
from gradreg_bench.task import Measurement, Result, Task
from gradreg_bench.timing import Spread
from gradreg_bench.variants import PLAIN
from gradreg_core.errors import InputError

TASK = Task("torch", "mlp", 64, (1,), (), 3, 1)


def result(ratio, spread=0.05, name="SpectReg", task=TASK, failed=""):
    measured = None if ratio is None else Spread(ratio, ratio - spread, ratio + spread)
    plain = Measurement(PLAIN, Spread(1.0, 1.0, 1.0), 0.1, 1.0)
    return Result(task, 0.6, "kept", (plain, Measurement(name, measured, 0.1, 2.0, failed=failed)))


@pytest.mark.parametrize(
    ("then", "now", "regressed"),
    [
        (result(2.0), result(2.0), False),
        (result(2.0), result(1.5), False),
        (result(2.0), result(2.2), False),  # within the tolerance
        (result(2.0), result(2.4), True),
        (result(2.0), result(2.4, spread=0.5), False),  # the quartiles overlap
        (result(2.0), result(None, failed="RuntimeError: no"), True),
    ],
)
def test_what_counts_as_a_regression(then, now, regressed):
    (change,) = changes([then], [now])
    assert change.regressed == regressed


def test_the_tolerance_is_the_callers():
    assert changes([result(2.0)], [result(2.2)], tolerance=0.05)[0].regressed
    assert not changes([result(2.0)], [result(2.4)], tolerance=0.5)[0].regressed


@pytest.mark.parametrize(
    "other",
    [
        result(2.0, name="DataGrad"),
        result(2.0, task=Task("jax", "mlp", 64, (1,), (), 3, 1)),
        result(2.0, task=Task("torch", "mlp", 32, (1,), (), 3, 1)),
        result(2.0, task=Task("torch", "mlp", 64, (1,), (), 3, 2)),
        result(None, failed="no"),
    ],
)
def test_nothing_in_common_is_an_error_and_not_a_pass(other):
    with pytest.raises(InputError, match="none of the measured results"):
        changes([other], [result(2.0)])


def test_files_that_are_no_results_are_refused(tmp_path):
    path = tmp_path / "bench.json"
    with pytest.raises(InputError, match=r"bench\.json"):
        read_results(path)
    for text in ("3", "{}", '{"results": 3}', '{"results": [{"task": 1}]}', "{"):
        path.write_text(text)
        with pytest.raises(InputError, match="bench"):
            read_results(path)


def test_the_command_ends_with_1_where_a_ratio_has_grown(gradreg, tmp_path, monkeypatch):
    file = tmp_path / "then.json"
    file.write_text(json.dumps(as_json([result(2.0)], [0.1])))
    common = ("--network", "mlp", "--out", str(tmp_path / "out"), "--compare", str(file))
    for now, code in ((result(2.0), 0), (result(3.0), 1)):
        monkeypatch.setattr("gradreg_bench.command.run", lambda task, timeout, now=now: now)
        done = gradreg("bench", *common)
        assert done.exit_code == code, done.output
        assert "then and now" in done.output
    assert gradreg("bench", *common, "--tolerance", "0.6").exit_code == 0
