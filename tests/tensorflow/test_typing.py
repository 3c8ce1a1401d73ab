"""What a type checker and help() see of the TensorFlow calls in a user's script."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradreg_core
import gradreg_tensorflow as gradreg

SCRIPT = """
import tensorflow as tf

import gradreg_tensorflow as gradreg
from gradreg_core.results import Parts
from gradreg_keras import RegularizedModel

model = tf.keras.Sequential([tf.keras.layers.Input((8,)), tf.keras.layers.Dense(3)])
optimizer = tf.keras.optimizers.Adam()
reg = gradreg.SpectReg(0.01, seed=0) + gradreg.WeightDecay(1e-4)
x, y = tf.ones((4, 8)), tf.range(4) % 3


def step(number: int) -> Parts:
    with tf.GradientTape() as tape:
        total, parts = gradreg.loss(model, x, y, reg, step=number)
    gradients = tape.gradient(total, model.trainable_variables)
    optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    return parts


reveal_type(gradreg.SpectReg(0.01))
reveal_type(step(0).penalty)
reveal_type(gradreg.measure(model, x).spectral)
gradreg.loss(model, x, y, reg, stepp=1)
gradreg.SpectReg(0.01, projection=2)
gradreg.penalty(model, x, y, 0.01)
RegularizedModel(model, reg, batchnorm="allow")
"""
LINES = [
    'note: Revealed type is "gradreg_core.presets.SpectReg"',
    'note: Revealed type is "tuple[Any, ...]"',
    'note: Revealed type is "Any"',
    'error: Unexpected keyword argument "stepp"; did you mean "step"?',
    'error: Unexpected keyword argument "projection" for "SpectReg"; did you mean "projections"?',
    'error: Argument 4 has incompatible type "float"; expected "Regularizer"',
    'error: Unexpected keyword argument "batchnorm" for "RegularizedModel"',
]
"""Of the last lines of the script."""


@pytest.mark.slow
def test_a_type_checker_knows_results_and_keywords(tmp_path: Path) -> None:
    script, settings = tmp_path / "script.py", tmp_path / "mypy.ini"
    script.write_text(SCRIPT)
    settings.write_text("[mypy-tensorflow.*,keras.*]\nignore_missing_imports = true\nfollow_imports = skip\n")
    paths = os.pathsep.join(str(Path(package.__file__).parents[1]) for package in (gradreg_core, gradreg))
    options = [f"--config-file={settings}", f"--cache-dir={tmp_path}", "--follow-imports=silent"]
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(script)],
        env={**os.environ, "MYPYPATH": paths},
        capture_output=True,
        text=True,
    )
    messages = [line for line in checked.stdout.splitlines() if ": error:" in line or "Revealed type" in line]
    assert len(messages) == len(LINES), checked.stdout
    first = len(SCRIPT.splitlines()) - len(LINES) + 1
    for number, (message, expected) in enumerate(zip(messages, LINES, strict=True), first):
        assert message.startswith(f"{script}:{number}: {expected}"), checked.stdout


def test_every_keyword_has_a_name() -> None:
    keywords = {"step", "seed", "loss_fn", "sample_ids", "sample_weight", "normalizer", "class_axis", "directions"}
    assert keywords | {"params", "chunk_size", "batch_norm"} <= set(inspect.signature(gradreg.loss).parameters)
    for call in (gradreg.loss, gradreg.penalty, gradreg.measure, gradreg.check):
        parameters = inspect.signature(call).parameters.values()
        assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters)
