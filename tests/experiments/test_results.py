"""The results of finished runs: kept whole, whoever is killed, and by several processes at once."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from gradreg_core.errors import DataFileError
from gradreg_experiments.results import EXPORT, RUNS, Results


def keys(path: Path) -> list[str]:
    return [json.loads(line)["key"] for line in path.read_text().splitlines()]


def test_a_result_is_there_for_the_next_process_and_in_the_export(tmp_path):
    results = Results(tmp_path / "new" / "folder")
    results.add({"key": "b", "value": 0.1})
    results.add({"key": "a", "value": 2})
    again = Results(tmp_path / "new" / "folder")
    assert again["b"] == {"key": "b", "value": 0.1}
    assert "a" in again
    assert again.get("c") is None
    assert keys(again.export()) == ["b", "a"], "in the order in which they were done"


def test_the_export_alone_has_all_runs_and_is_not_changed_by_another_export(tmp_path):
    (tmp_path / EXPORT).write_text('{"key":"z","value":1.0}\n{"key":"y"}\n')
    before = (tmp_path / EXPORT).read_bytes()
    results = Results(tmp_path)
    assert len(results) == 2
    assert results.export().read_bytes() == before
    results.add({"key": "x"})
    assert results.export().read_bytes() == before + b'{"key":"x"}\n'


def test_the_first_result_of_a_key_stays(tmp_path):
    first, second = Results(tmp_path), Results(tmp_path)
    first.add({"key": "a", "value": 1})
    second.add({"key": "a", "value": 2})
    second.add({"key": "b"})
    first.add({"key": "c"})
    assert second["a"]["value"] == Results(tmp_path)["a"]["value"] == 1
    assert keys(first.export()) == ["a", "b", "c"], "the export has the runs of other processes too"


def write_for_ever(folder, ready):
    results = Results(folder)
    for index in range(10**9):
        results.add({"key": f"{os.getpid()}-{index}", "values": list(range(20_000))})
        results.export()
        ready.release()


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # of JAX, which the children do not use
def test_killed_writers_leave_whole_results_only(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Semaphore(0)
    writers = [context.Process(target=write_for_ever, args=(tmp_path, ready), daemon=True) for _ in range(2)]
    for writer in writers:
        writer.start()
    for _ in range(8):
        ready.acquire()
    for writer in writers:
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
    results = Results(tmp_path)
    assert len(results) >= 8
    assert all(result["values"] == list(range(20_000)) for result in results)
    assert set(keys(tmp_path / EXPORT)) <= {result["key"] for result in results}
    assert set(keys(results.export())) == {result["key"] for result in results}


def test_an_unfinished_file_is_not_a_result(tmp_path):
    Results(tmp_path).add({"key": "a"})
    (tmp_path / RUNS / ".b.json.x1y2.json").write_text('{"key":"b","val')  # as a process leaves it that is killed
    assert [result["key"] for result in Results(tmp_path)] == ["a"]


@pytest.mark.parametrize(("end", "kept"), [('{"key":"b","val', ["a"]), ('{"key":"b"}', ["a", "b"])])
def test_an_export_that_was_cut_off_keeps_its_whole_lines(tmp_path, end, kept):
    (tmp_path / EXPORT).write_text('{"key":"a"}\n' + end)
    results = Results(tmp_path)
    results.add({"key": "c"})
    assert keys(results.export()) == [*kept, "c"]


def test_files_that_were_removed_or_edited_while_a_command_runs(tmp_path):
    results = Results(tmp_path)
    for key in "ab":
        results.add({"key": key})
    (tmp_path / RUNS / "a.json").unlink()
    (tmp_path / RUNS / "b.json").write_text('{"key":"b","note":"edited"}')
    results.add({"key": "c"})
    assert results.export().read_text() == '{"key":"b","note":"edited"}\n{"key":"c"}\n'


def test_anything_else_is_refused(tmp_path):
    (tmp_path / EXPORT).write_text('{"key":"a"}\nnonsense\n{"key":"b"}\n')
    with pytest.raises(DataFileError, match=r"results\.jsonl, line 2: expected .* got b'nonsense"):
        Results(tmp_path)
    (tmp_path / EXPORT).unlink()
    (tmp_path / RUNS).mkdir()
    (tmp_path / RUNS / "a.json").write_text("[1]")
    with pytest.raises(DataFileError, match=r"a\.json: expected .* Remove this file"):
        Results(tmp_path)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"key":[1]}', "a JSON object with a key"),
        ('"a"', "a JSON object with a key"),
        ("[" * 100_000, "a JSON object with a key"),
        ('{"key":"a","backend":3}', "whose 'backend' is of another type than int"),
        ('{"key":"a","accuracy":{"test":"high","official":1}}', "whose 'accuracy' is an object of numbers with test"),
        ('{"key":"a","every_loss":{"1":2}}', "whose 'every_loss' is a list of numbers"),
        ('{"key":"a","runs":[{"setting":[1]}]}', "whose 'runs' are a list of objects with norm, setting"),
        ('{"key":"a","outcomes":[{"setting":1}]}', "whose 'outcomes' are a list of objects with noise, setting"),
        ('{"key":"a","protocol":{"steps":1}}', "with 'version', 'regularizer', 'seed', 'backend', 'data'"),
    ],
)
def test_a_line_of_another_shape_is_one_error_with_its_place(tmp_path, line, problem):
    (tmp_path / EXPORT).write_text(f'{{"key":"b"}}\n{line}\n')
    with pytest.raises(
        DataFileError, match=rf"results\.jsonl, line 2: expected a run's result, {problem}.*Remove this"
    ):
        Results(tmp_path)


def test_a_result_whose_settings_were_changed_is_refused(tmp_path, make_job):
    job = make_job()
    whole = {"key": job.key, **job.as_json(), "accuracy": {"test": 1.0, "official": 2.0}, "jacobian_frobenius": None}
    (tmp_path / EXPORT).write_text(json.dumps(whole))  # the newline is missing, and the line is whole
    assert job.key in Results(tmp_path)
    (tmp_path / EXPORT).write_text(json.dumps(whole | {"seed": 2}) + "\n")
    with pytest.raises(DataFileError, match="whose key is the digest of its settings: one of them was changed"):
        Results(tmp_path)
    (tmp_path / EXPORT).write_text(json.dumps({name: whole[name] for name in whole if name != "accuracy"}) + "\n")
    with pytest.raises(DataFileError, match="with 'accuracy', 'jacobian_frobenius' or 'gradient'"):
        Results(tmp_path)


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        Results(tmp_path).add({"key": "a", "value": float("nan")})
    assert len(Results(tmp_path)) == 0
