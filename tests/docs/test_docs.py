"""The documentation: its code runs, its links lead somewhere, and it names everything public."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import gradreg_core
from documents import run
from gradreg_core import calls, norms, outputs, presets, projections

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_quick_start_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    exec(compile(block, "README.md", "exec"), {})
    assert "tensor" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_on_tensorflow_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "tensorflow.md").read_text(), re.S):
        exec(compile(block, "tensorflow.md", "exec"), namespace)
    assert "gradreg check: passed" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_on_pytorch_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "pytorch.md").read_text(), re.S):
        exec(compile(block, "pytorch.md", "exec"), names)
        if "sample_ids" in block:
            for parameter, wanted in zip(names["model"].parameters(), names["wanted"], strict=True):
                torch.testing.assert_close(parameter.grad, wanted)  # float32 sums in another order
    assert "gradreg check: passed" in capsys.readouterr().out
    assert names["slopes"]["0.weight"].shape == (4, 16, 20)


def test_the_page_on_the_calls_runs_as_it_stands() -> None:
    names = run(ROOT / "docs" / "calls.md")[""]
    assert 0 < float(names["alone"].detach()) < float(names["both"].detach())
    assert 0 < float(names["fine"].detach()) < float(names["together"].detach())


@pytest.mark.slow
def test_the_page_on_choosing_runs_as_it_stands() -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "choosing.md").read_text(), re.S):
        exec(compile(block, "choosing.md", "exec"), names)
    assert names["parts"].penalty[0] > 0
    norms = [norm for _, norm in names["results"].values()]
    assert norms == sorted(norms, reverse=True)
    assert names["results"][3e-4][0] > names["results"][1e-2][0]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)#]+)", prose):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_the_calls_have_every_argument() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "calls.md").read_text(), re.M)
    signatures = [inspect.signature(getattr(calls.Calls, call)) for call in ("loss", "penalty", "measure", "check")]
    arguments = {name for signature in signatures for name in signature.parameters} - {"self"}
    assert sorted(rows) == sorted(arguments)


def test_the_mathematics_has_every_preset_and_projection() -> None:
    text = (ROOT / "docs" / "mathematics.md").read_text()
    words = [name for name in norms.__all__ if name.islower()]
    for name in [*presets.__all__, *projections.__all__, *words, *norms.NORMS, *outputs.OUTPUTS]:
        assert f"`{name}" in text or f'`"{name}"' in text, name


@pytest.mark.parametrize("name", presets.__all__)
def test_each_preset_states_its_formula_and_source(name: str) -> None:
    text = inspect.getdoc(getattr(presets, name)) or ""
    assert text.startswith("weight * "), name
    assert re.search(r"(19|20)\d\d|Varga|DataGrad with labels", text), name


def test_every_public_name_has_a_docstring() -> None:
    for name in gradreg_core.__all__:
        value = getattr(gradreg_core, name)
        assert not callable(value) or inspect.getdoc(value), name
    for call in ("loss", "penalty", "measure", "check"):
        assert "Raises:" in (inspect.getdoc(getattr(calls.Calls, call)) or ""), call
