"""docs/validate.md."""

import re
import shlex
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_page_runs_as_it_stands(gradreg, tmp_path, monkeypatch, capsys):
    pytest.importorskip("jax")
    pytest.importorskip("tensorflow")
    page = (Path(__file__).parents[3] / "docs" / "validate.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)
    kinds = [kind for kind, _ in blocks]
    assert kinds == ["python", "python", "text", "python", "bash"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "ports.py").write_text(blocks[0][1])
    try:
        exec(compile(blocks[1][1], "page", "exec"), {"__name__": "page"})
        shown = capsys.readouterr().out
        exec(compile(blocks[3][1], "page", "exec"), {"__name__": "page"})
        lines = [line for line in blocks[4][1].replace("\\\n", " ").splitlines() if line]
        assert lines
        for line in lines:
            program, *arguments = shlex.split(line)
            done = gradreg(*arguments)
            assert (program, done.exit_code) == ("gradreg", 0), done.output
    finally:
        sys.modules.pop("ports", None)
    table = [line.split("  ")[0] for line in blocks[2][1].splitlines() if line.endswith("ok")]
    assert table == [line.split("  ")[0] for line in shown.splitlines() if line.endswith("ok")]
