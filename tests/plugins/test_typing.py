"""The calls as a type checker, help() and an editor see them in a user's script."""

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).with_name("scripts")
ROOT = Path(__file__).parents[2]
SKIPPED = ("numpy", "torch", "jax", "tensorflow", "keras")
"""Reading the types of PyTorch and NumPy takes half a minute, and no message depends on those of the frameworks."""
MESSAGE = re.compile(r"(?P<file>\w+)\.py:(?P<line>\d+): (?P<text>error: .*|note: Revealed type is .*)")


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, str]]:
    """(script, line, text) of mypy's errors and types; a user's folder knows nothing of this project's settings."""
    pytest.importorskip("mypy")
    folder = tmp_path_factory.mktemp("user")
    config = "[mypy]\nfollow_imports = silent\n"
    config += "".join(f"[mypy-{name}.*]\nignore_missing_imports = true\nfollow_imports = skip\n" for name in SKIPPED)
    (folder / "mypy.ini").write_text(config)
    environment = {**os.environ, "MYPYPATH": os.pathsep.join((str(ROOT), str(ROOT / "backends")))}
    command = [sys.executable, "-m", "mypy", *map(str, sorted(SCRIPTS.glob("*.py")))]
    checked = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    matches = [match for line in checked.stdout.splitlines() if (match := MESSAGE.search(line))]
    assert matches, checked.stdout + checked.stderr
    return [(m["file"], int(m["line"]), m["text"]) for m in matches]


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(path.stem for path in SCRIPTS.glob("*.py")))
def test_a_type_checker_knows_results_and_keywords(script: str, messages: list[tuple[str, int, str]]) -> None:
    """A comment of a script is the end of mypy's message for its line, or a part of it; no other line has one."""
    lines = (SCRIPTS / f"{script}.py").read_text().splitlines()
    expected = {number: line.split("  # ")[1] for number, line in enumerate(lines, 1) if "  # " in line}
    said = {line: text for file, line, text in messages if file == script}
    assert set(said) == set(expected), messages
    for line, comment in expected.items():
        kind, _, words = comment.partition(": ")
        assert said[line].startswith(f"{kind}: ")
        assert words in said[line]


@pytest.mark.parametrize("name", ["torch", "jax", "tensorflow"])
def test_every_keyword_has_a_name(name: str) -> None:
    pytest.importorskip(name)
    backend = importlib.import_module(f"gradreg_{name}")
    shared = {"step", "seed", "loss_fn", "sample_ids", "class_axis", "chunk_size", "batch_norm"}
    training = {"sample_weight", "normalizer", "directions", "params"}
    calls = {
        "loss": shared | training,
        "penalty": shared | training,
        "measure": shared,
        "check": shared - {"batch_norm"},
    }
    for call, keywords in calls.items():
        parameters = inspect.signature(getattr(backend, call)).parameters
        assert keywords <= set(parameters), call
        assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters.values())
