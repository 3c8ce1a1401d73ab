"""Which models a task may name."""

import pytest

from gradreg_bench.task import Task
from gradreg_bench.worker import load
from gradreg_core.errors import InputError

FACTORIES = """
def wrong():
    return 3

def needs(width):
    return None
"""


@pytest.mark.parametrize(
    ("framework", "model", "message"),
    [
        ("torch", "factories_of_bench:wrong", r"expected \(model, x, y\), got int"),
        ("torch", "factories_of_bench:needs", "called without arguments"),
        ("torch-fast", "mlp", "torch has the modes eager, compile, got 'fast'"),
        ("jax", "jax.numpy:pi", "expected a function that is called without arguments, got 3.14"),
    ],
)
def test_errors_say_what_was_expected(framework, model, message, tmp_path, monkeypatch):
    (tmp_path / "factories_of_bench.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=message):
        load(Task(framework, model, 2, (1,), (), 1, 1))
