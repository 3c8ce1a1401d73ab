"""``gradreg bench`` runs. Nothing here depends on a time."""

import json

import pytest

from gradreg_bench.run import run
from gradreg_bench.task import Task
from gradreg_bench.variants import PLAIN
from gradreg_core.presets import DataGrad
from gradreg_core.schema import to_dict


@pytest.fixture
def bench(gradreg):
    def call(*arguments, code=0):
        done = gradreg("bench", *arguments)
        assert done.exit_code == code, done.output
        return done.output

    return call


@pytest.mark.slow
def test_a_network(bench, tmp_path):
    common = ("--batch", "2", "--repeats", "2", "--out", str(tmp_path))
    printed = bench(*common, "--network", "mlp", "--variant", "vmap*", "--memory")
    assert "mlp, batch 2 in torch" in printed
    values = json.loads((tmp_path / "bench.json").read_text())
    (result,) = values["results"]
    assert [row["name"] for row in result["measurements"]] == [PLAIN, "vmap(jacrev)"]
    assert result["measurements"][0]["ratio"]["median"] == 1.0
    assert all(row["ratio"]["median"] > 0 and row["failed"] == "" for row in result["measurements"])
    assert result["first_layer_share"] == pytest.approx(0.6, abs=0.01)
    assert values["versions"]["torch"].startswith("2")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "bench.svg").read_text()


FACTORY = """
import torch

def model():
    net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    return net, torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
"""


@pytest.mark.slow
def test_a_model_of_ones_own(bench, tmp_path, monkeypatch):
    (tmp_path / "my_models_of_bench.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    printed = bench("my_models_of_bench:model", "--repeats", "1", "--variant", "SpectReg", "--out", "results")
    assert "my_models_of_bench:model in torch" in printed


@pytest.mark.slow
def test_a_regularizer_of_ones_own(bench, tmp_path):
    mine, wrong = tmp_path / "mine.json", tmp_path / "wrong.json"
    mine.write_text(json.dumps(to_dict(DataGrad(2.0))))
    wrong.write_text('{"schema": 1, "kind": "Nothing"}')
    common = ("--network", "mlp", "--batch", "2", "--repeats", "1", "--out", str(tmp_path / "out"))
    bench(*common, "--regularizer", str(mine))
    (result,) = json.loads((tmp_path / "out" / "bench.json").read_text())["results"]
    assert [row["name"] for row in result["measurements"]] == [PLAIN, "mine"]
    assert "expected the JSON of a regularizer" in bench(*common, "--regularizer", str(wrong), code=2)
    refused = bench(*common, "--regularizer", str(mine), "--variant", "DataGrad", code=2)
    assert "omit --variant and --projections" in refused


@pytest.mark.slow
def test_the_options_for_a_gpu_on_a_cpu(bench, tmp_path):
    common = ("--network", "mlp", "--batch", "2", "--repeats", "1", "--variant", "SpectReg", "--out", str(tmp_path))
    bench(*common, "--device", "cpu", "--precision", "bf16", "--memory")
    (result,) = json.loads((tmp_path / "bench.json").read_text())["results"]
    assert (result["task"]["device"], result["task"]["precision"]) == ("cpu", "bf16")
    assert [row["failed"] for row in result["measurements"]] == ["", ""]
    assert all(row["memory"] > 0 for row in result["measurements"])
    refused = bench(*common, "--device", "tpu", code=2)
    assert "--device tpu: PyTorch sees cpu" in " ".join(refused.split())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine.json", "plain.json"])
def test_names_of_regularizers_are_given_once(bench, tmp_path, name):
    mine, twice = tmp_path / "mine.json", tmp_path / "other" / name
    twice.parent.mkdir()
    for path in (mine, twice):
        path.write_text(json.dumps(to_dict(DataGrad(2.0))))
    refused = bench("--network", "mlp", "--regularizer", str(mine), "--regularizer", str(twice), code=2)
    assert f"{twice.stem!r} twice" in refused


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a:b", "--batch", "3"), "a factory has its own network and batch"),
        (("--threads", "4096"), "--threads 4096: there are"),
        (("--variant", "Nothing"), "no variant matches 'Nothing'"),
        (("--backend", "mxnet"), "no backend of this name is registered"),
        (("missing_module_of_bench:model",), "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_errors_say_what_to_do(bench, arguments, message, tmp_path):
    assert message in bench(*arguments, "--out", str(tmp_path), code=2)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
def test_other_frameworks(framework):
    result = run(Task(framework, "mlp", 2, (1,), ("SpectReg", "separate forward"), 1, 1))
    assert [row.failed for row in result.measurements] == ["", "", ""]
    assert all(row.ratio is not None for row in result.measurements)


@pytest.mark.slow
def test_a_third_partys_backend_by_its_description_alone(bench, autograd_plugin, tmp_path):
    common = ("--network", "mlp", "--batch", "2", "--repeats", "1", "--out", str(tmp_path))
    bench(
        "--backend", autograd_plugin, *common, "--variant", "SpectReg", "--variant", "separate*", "--variant", "vmap*"
    )
    values = json.loads((tmp_path / "bench.json").read_text())
    rows = {row["name"]: row for row in values["results"][0]["measurements"]}
    assert [name for name, row in rows.items() if row["ratio"]] == [PLAIN, "SpectReg", "separate forward"]
    assert rows["vmap(jacrev)"]["failed"] == "UnsupportedError: not written for autograd"
    assert "autograd" in values["versions"]
