"""gradreg bench: what is counted, what is compared, and that the command runs. Nothing here depends on a time."""

import json
import textwrap
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

import jax
import numpy as np
import torch
from gradreg_bench import timing
from gradreg_bench.jax_steps import JaxSteps
from gradreg_bench.networks import NETWORKS, first_share, layer_work, limit
from gradreg_bench.run import run
from gradreg_bench.task import Measurement, Result, Task
from gradreg_bench.timing import Spread, interleaved, peak_memory, spread
from gradreg_bench.torch_steps import TorchSteps
from gradreg_bench.variants import BASELINES, PLAIN, Variant, own_variants, variants
from gradreg_core.cli.main import main
from gradreg_core.errors import InputError
from gradreg_core.portable import networks as nets
from gradreg_core.presets import DataGrad, FrobReg, SpectReg

SMALL = nets.Network(
    (6, 6, 1), (nets.Conv2D(3, 3, "same"), nets.Activation("tanh"), nets.MaxPool(2), nets.Flatten(), nets.Dense(4))
)
EXACT = ("projection loop", "vmap(jacrev)")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_work_is_what_pytorch_counts(name: str) -> None:
    steps = TorchSteps.of_network(NETWORKS[name], 2, "eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        steps.model(steps.x)
    # PyTorch counts a multiplication and an addition, for each of two samples.
    assert 4 * sum(work for _, work in layer_work(NETWORKS[name])) == counter.get_total_flops()


@pytest.mark.parametrize("name", ["mlp", "lenet", "resnet-groupnorm"])
def test_the_first_share_follows_from_pytorchs_count_of_a_step(name: str) -> None:
    steps = TorchSteps.of_network(NETWORKS[name], 2, "eager")
    assert steps.first_share() == pytest.approx(first_share(NETWORKS[name]), abs=1e-12)


def test_limits() -> None:
    assert limit(0.0, 1) == 2.0
    assert limit(0.0, 10) == 11.0
    assert limit(first_share(NETWORKS["mlp"]), 1) == pytest.approx(2.25, abs=0.005)
    every = Variant("DataGrad every=16", share=1 / 16)
    assert every.limit(0.0, 10) == 1 + 1 / 16
    assert Variant("exact", rows=None).limit(0.0, 7) == 8.0
    assert Variant("unknown", bounded=False).limit(0.0, 7) is None
    assert Variant(PLAIN, rows=0).limit(0.5, 7) == 1.0


def test_the_variants() -> None:
    names = [each.name for each in variants((1, 4))]
    assert names[0] == PLAIN
    assert len(set(names)) == len(names)
    assert set(BASELINES) <= set(names)
    assert "SpectReg k=4" in names
    assert [each.name for each in variants((1,), ("Frob*", "DataGrad"))] == [PLAIN, "DataGrad", "FrobReg"]
    with pytest.raises(InputError, match=r"no variant matches 'Nothing\*'; there are DataGrad, "):
        variants((1,), ("Nothing*",))


def torch_gradients(variant: Variant) -> list[np.ndarray]:
    steps = TorchSteps.of_network(SMALL, 3, "eager")
    steps.step(variant)(0)
    return [each.grad.numpy().copy() for each in steps.params]


def jax_gradients(variant: Variant) -> list[np.ndarray]:
    step = JaxSteps.of_network(SMALL, 3, "jit").step(variant)
    return [np.asarray(each) for each in jax.tree.leaves(step(0))]


@pytest.mark.parametrize("gradients", [torch_gradients, jax_gradients])
def test_what_one_would_otherwise_write_computes_the_same(gradients) -> None:
    wanted = gradients(Variant("FrobReg", FrobReg(0.01), None))
    plain = gradients(Variant(PLAIN, rows=0))
    assert any(np.abs(one - other).max() > 1e-3 for one, other in zip(wanted, plain, strict=True))
    names = (*EXACT, "backward per projection") if gradients is torch_gradients else EXACT
    for name in names:
        for one, other in zip(gradients(Variant(name, rows=None)), wanted, strict=True):
            # float32: tens of roundings of numbers of order 1
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gradients", [torch_gradients, jax_gradients])
def test_recomputation_changes_no_gradient(gradients) -> None:
    wanted = gradients(Variant("DataGrad", DataGrad(1.0)))
    for one, other in zip(gradients(Variant("DataGrad recomputed")), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)  # float32, as above


def test_rounds_are_interleaved_and_cycles_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []
    clock = iter(range(1000))
    monkeypatch.setitem(timing.CLOCKS, "wall", lambda: float(next(clock)))
    steps = {name: (lambda number, name=name: calls.append((name, number))) for name in "abc"}
    found = interleaved(steps, {"a": 1, "b": 1, "c": 4}, 5)
    assert found == {"a": [1.0] * 5, "b": [1.0] * 5, "c": [0.25] * 5}
    counted = calls[6:]  # after two steps of each to warm up
    rounds = [counted[start : start + 6] for start in range(0, 30, 6)]
    assert len(counted) == 30
    for each in rounds:
        assert sorted(each) == [("a", 0), ("b", 0), ("c", 0), ("c", 1), ("c", 2), ("c", 3)]
    assert len({tuple(each) for each in rounds}) > 1


def test_spread() -> None:
    assert spread([3.0]) == (3.0, 3.0, 3.0)
    assert spread([1.0, 2.0, 3.0, 4.0, 100.0]) == (3.0, 2.0, 4.0)


def test_peak_memory_is_that_of_the_step() -> None:
    size = 64 * 2**20
    found = peak_memory(lambda number: np.ones(size, np.uint8).sum())
    if found is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert 0.95 * size < found < 1.5 * size


def test_results_go_through_json() -> None:
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


def bench(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["bench", *arguments])
    assert done.exit_code == code, done.output
    return done.output


def test_the_command_measures_a_network(tmp_path: Path) -> None:
    common = ("--batch", "2", "--repeats", "2", "--out", str(tmp_path))
    printed = bench(*common, "--network", "mlp", "--variant", "DataGrad", "--variant", "vmap*", "--memory")
    assert "mlp in torch, batch 2" in printed
    values = json.loads((tmp_path / "bench.json").read_text())
    (result,) = values["results"]
    assert [row["name"] for row in result["measurements"]] == [PLAIN, "DataGrad", "vmap(jacrev)"]
    assert result["measurements"][0]["ratio"]["median"] == 1.0
    assert all(row["ratio"]["median"] > 0 and row["failed"] == "" for row in result["measurements"])
    assert result["first_layer_share"] == pytest.approx(0.6, abs=0.01)
    assert values["versions"]["torch"].startswith("2")
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "bench.svg").read_text()


FACTORIES = textwrap.dedent(
    """
    import torch

    def model():
        net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        return net, torch.randn(4, 5), torch.tensor([0, 1, 2, 0])

    def wrong():
        return torch.nn.Linear(5, 3)

    def needs(width):
        return None
    """
)


def test_the_command_measures_a_model_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models_of_bench.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    printed = bench("my_models_of_bench:model", "--repeats", "1", "--variant", "SpectReg", "--out", "found")
    assert "my_models_of_bench:model in torch" in printed
    refused = bench("my_models_of_bench:wrong", "--out", "found", code=2)
    assert "expected (model, x, y), got Linear" in refused
    refused = bench("my_models_of_bench:needs", "--out", "found", code=2)
    assert "called without arguments" in refused


def test_the_command_measures_a_regularizer_of_ones_own(tmp_path: Path) -> None:
    mine, wrong = tmp_path / "mine.json", tmp_path / "wrong.json"
    mine.write_text(json.dumps((DataGrad(2.0, every=3) + SpectReg(0.1, every=2)).to_dict()))
    wrong.write_text('{"schema": 1, "kind": "Nothing"}')
    common = ("--network", "mlp", "--batch", "2", "--repeats", "1", "--out", str(tmp_path / "out"))
    bench(*common, "--regularizer", str(mine))
    (result,) = json.loads((tmp_path / "out" / "bench.json").read_text())["results"]
    assert [row["name"] for row in result["measurements"]] == [PLAIN, "mine"]
    assert own_variants([("mine", mine.read_text())])[1].cycle == 6
    assert "expected the JSON of a regularizer" in bench(*common, "--regularizer", str(wrong), code=2)
    for name in ("mine.json", "plain.json"):
        twice = tmp_path / "other" / name
        twice.parent.mkdir(exist_ok=True)
        twice.write_text(mine.read_text())
        refused = bench(*common, "--regularizer", str(mine), "--regularizer", str(twice), code=2)
        assert f"{twice.stem!r} twice" in refused
    refused = bench(*common, "--regularizer", str(mine), "--variant", "DataGrad", code=2)
    assert "leave out --variant and --projections" in refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a:b", "--batch", "3"), "a factory brings its own network and batch"),
        (("--threads", "4096"), "--threads 4096: there are"),
        (("--variant", "Nothing"), "no variant matches 'Nothing'"),
        (("missing_module_of_bench:model",), "cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_errors_say_what_to_do(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    assert message in bench(*arguments, "--out", str(tmp_path), code=2)


@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
def test_other_frameworks(framework: str) -> None:
    result = run(Task(framework, "mlp", 2, (1,), ("SpectReg", "separate forward"), 1, 1))
    assert [row.failed for row in result.measurements] == ["", "", ""]
    assert all(row.ratio is not None for row in result.measurements)
