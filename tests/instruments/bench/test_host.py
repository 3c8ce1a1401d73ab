"""The host's share of a call, counted; no time is judged."""

import json

import jax
import pytest
import torch

from gradreg_bench import host
from gradreg_bench.draws import digest, draws_agree
from gradreg_bench.host import BATCH, CASES, HOST, TINY, python_calls
from gradreg_bench.modes import over_modes
from gradreg_bench.task import Measurement, Result, Task
from gradreg_bench.timing import Spread
from gradreg_bench.torch_steps import TorchSteps
from gradreg_bench.variants import PLAIN, Variant
from gradreg_bench.worker import load
from gradreg_core.errors import UnsupportedError
from gradreg_core.plugins.dispatch import load_backend


@pytest.mark.slow
def test_python_calls_are_counted():
    def inner():
        return [].append(1)

    assert python_calls(lambda: None) == 0
    assert python_calls(lambda: (inner(), inner())) == 2
    assert python_calls(inner, times=3) == 0


@pytest.mark.parametrize("name", ["no regularizer", "SpectReg", "DataGrad"])
def test_by_hand_is_the_same_computation(name):
    """SpectReg is an exception: the hand-written penalty draws other noise."""
    steps = TorchSteps.of_network("torch", TINY, BATCH, "eager")
    total, parts = steps.calls.loss(steps.model, steps.x, steps.y, CASES[name])
    by_hand, loss, total = (value.item() for value in (steps.by_hand(CASES[name])(), parts.loss, total))
    if name == "SpectReg":
        assert by_hand > loss
    else:
        weight = 1.0 if name == "no regularizer" else 0.01  # of a penalty by hand; CASES has 1
        penalty = total - loss
        # float32: a few roundings of order 1
        assert by_hand == pytest.approx(loss + weight * penalty, rel=1e-5)


@pytest.mark.slow
def test_another_framework_has_a_row(monkeypatch):
    """In this process, and each call few times: only that it works."""
    steps = load(Task("tensorflow", HOST, BATCH, (1,), (), 1, 1))
    monkeypatch.setattr(host, "CASES", {"SpectReg": CASES["SpectReg"]})
    for name in ("_CALLS", "_WARM_UP", "_COUNTED"):
        monkeypatch.setattr(host, name, 1)
    (row,) = host.measure_host(steps, 1)
    assert row.python_calls > row.calls_by_hand > 0
    assert row.microseconds > 0
    assert row.operations is None
    assert draws_agree(steps.calls.backend, steps.x)


def test_by_hand_in_jax():
    """As one program, because eager operations are each compiled at first."""
    steps = load(Task("jax", HOST, BATCH, (1,), (), 1, 1))
    plain, penalised = (float(jax.jit(steps.by_hand(CASES[name]))()) for name in ("no regularizer", "DataGrad"))
    own = jax.jit(lambda: steps.calls.loss(steps.eager_model, steps.x, steps.y, CASES["DataGrad"])[1].penalty[0])
    assert penalised - plain == pytest.approx(0.01 * float(own()), rel=1e-3)  # float32: a difference of numbers near 1


@pytest.mark.slow
def test_the_command_prints_it(gradreg, tmp_path):
    done = gradreg("bench", "--network", "host", "--repeats", "1", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "the host's share of a call in torch" in done.output
    assert "the published bits" in done.output
    assert not (tmp_path / "bench.png").exists()
    (values,) = json.loads((tmp_path / "bench.json").read_text())["results"]
    del values["load"]
    assert json.loads(json.dumps(Result.from_dict(values).to_dict())) == values
    assert [row["name"] for row in values["host"]] == list(CASES)
    assert all(row["python_calls"] > row["calls_by_hand"] > 0 for row in values["host"])
    assert all(row["operations"] >= row["operations_by_hand"] > 0 for row in values["host"])


def test_other_bits_are_noticed(monkeypatch):
    ops = load_backend("torch").backend
    like = torch.zeros(1)
    assert draws_agree(ops, like)
    before = digest(ops, like)
    monkeypatch.setattr("gradreg_bench.draws._SEED", 8)
    assert digest(ops, like) != before
    assert not draws_agree(ops, like)


@pytest.mark.parametrize("framework", ["jax", "tensorflow"])
def test_steps_that_take_no_device_say_so(framework):
    with pytest.raises(UnsupportedError, match="Omit both options"):
        load(Task(framework, HOST, BATCH, (1,), (), 1, 1, device="cuda"))


def test_bfloat16_on_the_cpu():
    steps = TorchSteps.of_network("torch", TINY, BATCH, "eager")
    gradients = []
    for precision in ("float32", "bf16"):
        steps.place("cpu", precision)
        steps.step(Variant("SpectReg", CASES["SpectReg"]))(0)
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in steps.params[:-1]]))
    apart = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    assert 0 < apart < 0.05  # bfloat16 has 8 bits: roundings of 0.4 % each


def timed(framework, **seconds):
    names = {"plain": PLAIN}
    rows = [Measurement(names.get(n, n), Spread(1.0, 1.0, 1.0), value, None) for n, value in seconds.items()]
    return Result(Task(framework, "mlp", 8, (1,), (), 1, 1), 0.6, "kept", tuple(rows))


def test_modes_are_compared_with_the_fastest_plain_step():
    eager, compiled = timed("torch", plain=2.0, DataGrad=5.0), timed("torch-compile", plain=4.0, DataGrad=6.0)
    rows = {row.variant: row for row in over_modes([eager, compiled, timed("jax", plain=1.0, DataGrad=2.0)])}
    assert rows["DataGrad"].times == {"first": 2.5, "compile": 3.0}
    assert rows["DataGrad"].fastest == "first"
    assert rows[PLAIN].times == {"first": 1.0, "compile": 2.0}
    assert over_modes([eager]) == []
