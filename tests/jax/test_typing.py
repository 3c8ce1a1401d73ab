"""What a type checker and help() see of the JAX calls in a user's script."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradreg_core
import gradreg_jax as gradreg

SCRIPT = """
import jax
import jax.numpy as jnp

import gradreg_jax as gradreg
from gradreg_core.results import Parts

reg = gradreg.SpectReg(0.01, seed=0) + gradreg.WeightDecay(1e-4)
params = {"w": jnp.ones((8, 3))}
x, y = jnp.ones((4, 8)), jnp.arange(4) % 3


def objective(params: dict[str, jax.Array], step: int) -> tuple[jax.Array, Parts]:
    return gradreg.loss(lambda x: jnp.tanh(x @ params["w"]), x, y, reg, step=step, params=params)


for step in range(3):
    (total, parts), slopes = jax.value_and_grad(objective, has_aux=True)(params, step)
    params = jax.tree.map(lambda weight, slope: weight - 0.1 * slope, params, slopes)
reveal_type(gradreg.SpectReg(0.01))
reveal_type(objective(params, 0)[1].penalty)
reveal_type(gradreg.measure(jnp.tanh, x).spectral)
gradreg.loss(jnp.tanh, x, y, reg, stepp=1)
gradreg.SpectReg(0.01, projection=2)
gradreg.penalty(jnp.tanh, x, y, 0.01)
"""
LINES = [
    'note: Revealed type is "gradreg_core.presets.SpectReg"',
    'note: Revealed type is "tuple[Any, ...]"',
    'note: Revealed type is "Any"',
    'error: Unexpected keyword argument "stepp"; did you mean "step"?',
    'error: Unexpected keyword argument "projection" for "SpectReg"; did you mean "projections"?',
    'error: Argument 4 has incompatible type "float"; expected "Regularizer"',
]
"""Of the last lines of the script."""


@pytest.mark.slow
def test_a_type_checker_knows_results_and_keywords(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (gradreg_core, gradreg))
    command = [sys.executable, "-m", "mypy", "--config-file=", f"--cache-dir={tmp_path}", "--follow-imports=silent"]
    checked = subprocess.run(
        [*command, str(script)], env={**os.environ, "MYPYPATH": paths}, capture_output=True, text=True
    )
    first = len(SCRIPT.splitlines()) - len(LINES) + 1
    messages = [line for line in checked.stdout.splitlines() if ": error:" in line or "Revealed type" in line]
    assert len(messages) == len(LINES), checked.stdout
    for number, (message, expected) in enumerate(zip(messages, LINES, strict=True), first):
        assert message.startswith(f"{script}:{number}: {expected}"), checked.stdout


def test_every_keyword_has_a_name() -> None:
    for call in (gradreg.loss, gradreg.penalty, gradreg.measure, gradreg.check):
        parameters = inspect.signature(call).parameters
        assert {"step", "seed", "loss_fn", "sample_ids", "class_axis", "chunk_size"} <= set(parameters)
        assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())
