"""The pages on writing a backend: their code is the example's, and what they build passes the conformance kit."""

import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gradreg_core.backend import Backend

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "gradreg_autograd"
PAGES = ("write-a-backend.md", "backend/primitives.md", "backend/harness.md")
PAGE = "\n".join((ROOT / "docs" / name).read_text() for name in PAGES)
BUILT = ["pyproject.toml", *(f"gradreg_autograd/{name}.py" for name in ("plugin", "backend", "harness"))]
FILES = {name: (EXAMPLE / name).read_text() for name in [*BUILT, "gradreg_autograd/networks.py", "README.md"]}
BLOCKS = [block.strip("\n") for block in re.findall(r"^```(?:python|toml)\n(.*?)^```", PAGE, re.S | re.M)]
OUTPUTS = re.findall(r"^```text\n(.*?)^```", PAGE, re.S | re.M)
MISTAKE = ("backward_pass(w, node)", "backward_pass(getval(w), node)")
"""The change with which the page shows how a failure reads."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip has installed the example into."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-build-isolation", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check", "-q"]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), str(EXAMPLE)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def broken(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with the mistake of the page."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(installed, folder, dirs_exist_ok=True)
    backend = folder / "gradreg_autograd" / "backend.py"
    text = backend.read_text()
    assert text.count(MISTAKE[0]) == 1
    assert MISTAKE[1] in PAGE
    backend.write_text(text.replace(*MISTAKE))
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another Python, with the folder on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADREG_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-W", "error", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)


def gradreg(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run(folder, "-m", "gradreg_core.cli.main", *arguments)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.strip().partition("\n")[0][:40])
def test_each_block_of_the_page_is_in_the_example(block: str) -> None:
    assert any(block in text for text in FILES.values())


@pytest.mark.parametrize("name", BUILT)
def test_the_page_has_every_line_of_the_example(name: str) -> None:
    rest = FILES[name]
    for block in BLOCKS:
        rest = rest.replace(block, "")
    assert re.fullmatch(r'(""".*?""")?\s*', rest, re.S), rest


def test_the_example_of_use_runs(installed: Path) -> None:
    (block,) = [block for block in BLOCKS if block in FILES["README.md"]]
    done = run(installed, "-c", block)
    assert done.returncode == 0, done.stderr
    losses = [float(line.split()[1]) for line in done.stdout.splitlines()]
    assert len(losses) == 20
    assert losses[-1] < losses[0]


def test_the_backend_is_listed(installed: Path) -> None:
    done = gradreg(installed, "backends")
    assert done.returncode == 0, done.stderr
    assert re.search(r"autograd +ok +gradreg-autograd 0\.1\.0 +autograd [\d.]+, scipy", done.stdout), done.stdout


@pytest.mark.slow
def test_the_backend_passes_the_kit(installed: Path) -> None:
    """An honest second implementation: what kills the mutants lets it through."""
    done = gradreg(installed, "conformance", "autograd", "--profile", "quick")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "autograd: conforms" in done.stdout


@pytest.mark.slow
def test_a_failure_reads_as_on_the_page(broken: Path) -> None:
    _, stopped, kept = OUTPUTS
    names = [output.partition(":")[0] for output in (stopped, kept)]
    done = gradreg(broken, "conformance", "autograd", "--keep-going", *(f"--check={name}" for name in names))
    assert done.returncode == 1, done.stdout + done.stderr
    assert stopped.partition("...")[0] in done.stdout
    assert "autograd: does not conform" in done.stdout
    lines = [line for line in kept.splitlines() if line.startswith("    ")]
    assert "\n".join(lines) in done.stdout
    again = run(broken, "-c", "\n".join(map(str.strip, lines)))
    assert "value: agree" in again.stdout, again.stderr
    assert "gradients: DIFFER" in again.stdout


def test_the_page_names_every_method_that_has_a_default() -> None:
    optional = {
        name
        for owner in Backend.__mro__[:-1]
        for name, method in vars(owner).items()
        if inspect.isfunction(method) and not name.startswith("_") and name not in Backend.__abstractmethods__
    }
    assert optional
    assert not [name for name in sorted(optional) if f"`{name}`" not in PAGE]
