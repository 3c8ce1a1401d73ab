"""What a type checker, help() and an editor see of the PyTorch calls in a user's script."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradreg_core
import gradreg_torch as gradreg

SCRIPT = """
import torch
from torch import nn

import gradreg_torch as gradreg

model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
reg = gradreg.SpectReg(0.01, projections=2) + gradreg.WeightDecay(1e-4)
criterion = gradreg.Criterion(reg=reg)
for step in range(3):
    total, parts = gradreg.loss(model, x, y, reg, step=step)
    optimizer.zero_grad()
    total.backward()
    optimizer.step()
counted, _ = criterion(model, x, y)
reveal_type(reg)
reveal_type(parts.penalty)
reveal_type(criterion(model, x, y))
reveal_type(gradreg.measure(model, x))
reveal_type(gradreg.check(model, x, y, reg).ok)
gradreg.loss(model, x, y, reg, stepp=1)
criterion(model, x, y, sample_id=y)
gradreg.SpectReg(0.01, projection=2)
gradreg.loss(model, x, y, 0.01)
gradreg.Criterion(reg)
"""
LINES = [
    'note: Revealed type is "gradreg_core.terms.Sum"',
    'note: Revealed type is "tuple[Any, ...]"',
    "gradreg_core.results.Parts",
    "gradreg_core.results.Measures",
    'note: Revealed type is "bool"',
    'error: Unexpected keyword argument "stepp"; did you mean "step"?',
    'error: Unexpected keyword argument "sample_id" for "__call__" of "Criterion"; did you mean "sample_ids"?',
    'error: Unexpected keyword argument "projection" for "SpectReg"; did you mean "projections"?',
    'error: Argument 4 has incompatible type "float"; expected "Regularizer | None"',
    'error: Argument 1 to "Criterion" has incompatible type "Sum"',
]
"""mypy's messages for the lines of the script from `reveal_type(reg)` on."""
CONFIG = """
[mypy]
follow_imports = silent
[mypy-torch.*,numpy.*]
follow_imports = skip
"""
"""Reading the types of PyTorch and NumPy takes half a minute, and no message depends on them."""


@pytest.mark.slow
def test_a_type_checker_knows_results_and_keywords(tmp_path: Path) -> None:
    script, config = tmp_path / "script.py", tmp_path / "mypy.ini"
    script.write_text(SCRIPT)
    config.write_text(CONFIG)
    paths = os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (gradreg_core, gradreg))
    command = [sys.executable, "-m", "mypy", f"--config-file={config}", f"--cache-dir={tmp_path}", str(script)]
    checked = subprocess.run(command, env={**os.environ, "MYPYPATH": paths}, capture_output=True, text=True)
    first = SCRIPT.splitlines().index("reveal_type(reg)") + 1
    messages = [line for line in checked.stdout.splitlines() if line.startswith(str(script))]
    for number, wanted in enumerate(LINES, first):
        assert any(line.startswith(f"{script}:{number}: ") and wanted in line for line in messages), checked.stdout
    wrong = {line.split(":")[1] for line in messages if ": error:" in line}
    assert wrong == {str(first + index) for index, line in enumerate(LINES) if line.startswith("error:")}


def test_every_keyword_has_a_name() -> None:
    shared = {"step", "seed", "loss_fn", "sample_ids", "class_axis", "chunk_size", "batch_norm"}
    of_training = {"sample_weight", "normalizer", "directions", "params"}
    for call, keywords in ((gradreg.loss, shared | of_training), (gradreg.penalty, shared | of_training)):
        parameters = inspect.signature(call).parameters
        assert keywords <= set(parameters)
        assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())
    assert shared <= set(inspect.signature(gradreg.measure).parameters)
