"""The page on the conformance kit: its commands and code run as they stand, and its tables are true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import conformance_fakes
import pytest

from gradreg_conformance import plugin, runner
from gradreg_conformance.check import LAYERS
from gradreg_conformance.checks.capabilities import CAPABILITIES
from gradreg_conformance.profiles import PROFILES
from gradreg_conformance.reference import CONSTANT
from gradreg_conformance.report import STATUSES

TESTS = Path(__file__).parent
PAGE = (TESTS.parents[1] / "docs" / "conformance.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)


@pytest.mark.slow
def test_its_commands_run_as_they_stand(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    folder = tmp_path / "path"
    folder.mkdir()
    fakes = "import conformance_fakes\nconformance_fakes.install('good', 'lacking', 'late')\n"
    (folder / "sitecustomize.py").write_text(fakes)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(TESTS)]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTEST_ADDOPTS": "-p no:cacheprovider",
    }
    script = "".join(["set -e\n", *blocks("sh")])
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("conforms") >= 5
    assert "2 passed, 1 not applicable; worst error" in done.stdout
    assert {path.name for path in tmp_path.glob("*.*")} == {"report.html", "report.json", "matrix.html", "again.html"}


def test_its_code_runs_as_it_stands(monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.setattr(runner, "CHECKS", runner.CHECKS)
    conformance_fakes.install("good", "late")
    names = {"__name__": "page"}
    for block in blocks("python"):
        exec(compile(block, "conformance.md", "exec"), names)
    shown = capsys.readouterr().out
    assert "conforms\n" in shown
    assert shown.count(": agree, error") == 4


def test_its_tables_have_every_layer_profile_status_and_capability():
    for index, layer in enumerate(LAYERS):
        assert f"| L{index} | {layer} |" in PAGE
    for profile in PROFILES.values():
        assert (
            f"| `{profile.name}` | {profile.examples} | {'the same' if profile.deterministic else 'new ones'}" in PAGE
        )
    for status in STATUSES:
        assert f"\n| {status} |" in PAGE
    for capability in CAPABILITIES:
        assert f"\n| `{capability}` |" in PAGE
    assert f"\n    {CONSTANT:g} * condition * u\n" in PAGE


def test_it_names_every_option_of_pytest():
    class Parser:
        names: list[str] = []

        def getgroup(self, *_):
            return self

        def addoption(self, name, **_):
            self.names.append(name)

    plugin.pytest_addoption(Parser())
    assert len(Parser.names) == 4
    assert all(name in PAGE for name in Parser.names)
