"""The report as a page and as JSON, and the page that is committed."""

import platform
import re
from dataclasses import replace
from pathlib import Path

import pytest

from gradreg_sweep import report
from gradreg_sweep.search import Finding
from instruments.sweep.findings import WRONG, disagreement, finding, run

PAGE = Path(__file__).parents[3] / "docs" / "findings.md"
PROGRAMS = re.findall(r"<summary>\d+\. (.*?)</summary>\n\n```python\n(.*?)```", PAGE.read_text(), re.S)


def test_the_page_has_every_finding_with_its_program() -> None:
    page = report.as_markdown([finding(), finding(operation="good", kind="right", reproduction="")])
    assert "| [mine](#mine-eager) | PyTorch 0 | eager | wrong | 2e-01 |" in page
    assert '<a id="mine-eager"></a>' in page
    assert "```python\nprint(1)\n```" in page
    assert "**PyTorch 0, eager** (1): good." in page


def test_json_reads_back(tmp_path) -> None:
    rows = [finding(also=("NaN",), configuration={"b": 1})]
    report.write(tmp_path / "a.json", rows)
    assert report.read(tmp_path / "a.json") == rows


def test_the_page_has_what_tensorflow_is_known_to_get_wrong() -> None:
    text = PAGE.read_text()
    for operation in (*WRONG, "tf.image.resize, bilinear", "tf.reduce_prod", "tf.nn.ctc_loss", "tf.nn.softsign"):
        assert f"[{operation}](#" in text, operation
    assert text.count('<a id="') == len(PROGRAMS) > 50


@pytest.mark.parametrize(("title", "program"), [shown for shown in PROGRAMS if "import torch" in shown[1]])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of checkpoint, before it refuses
def test_the_programs_of_the_page_show_it(title: str, program: str) -> None:
    shown = replace(finding(), reproduction=program, operation=title)
    kind = title.rpartition(": ")[2].split()[0]
    if kind in ("raises", "first"):
        causes = "not implemented|double backward|use_reentrant|saved tensor hooks|mutate a captured|have storage"
        with pytest.raises(RuntimeError, match=causes):
            run(shown)
    elif kind == "NaN":
        assert "nan" in run(shown)
    else:
        assert disagreement(run(shown)) > 1e-5


def shown_findings(page: str) -> list[Finding]:
    """The findings that a page shows, as far as it shows them."""
    programs = dict(re.findall(r"<summary>\d+\. (.*?, [a-z]+): .*?</summary>\n\n```python\n(.*?)\n```", page, re.S))
    groups: dict[tuple[str, str], list[Finding]] = {
        names: [] for names in re.findall(r"^\| ([^|\[]+) \| ([a-z]+) \| \d+ \|", page, re.M)
    }
    for line in re.findall(r"^\| \[.*$", page, re.M):
        link, version, mode, kind, error, remark = (cell[1:-1] for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        operation = link[1 : link.rindex("](#")]
        detail, *also = re.split(
            r"(?:; |^)also ", remark.replace("\\|", "|").removesuffix("*single*").removesuffix("; ")
        )
        row = Finding("", version, mode, operation, kind, float(error or 0), detail, remark.endswith("*single*"))
        groups[version, mode].append(replace(row, also=tuple(also), reproduction=programs[f"{operation}, {mode}"]))
    for version, mode, names in re.findall(r"^\*\*(.*), ([a-z]+)\*\* \(\d+\): (.*)\.$", page, re.M):
        for name in re.split(r", (?=a module|(?:torch|tf|jax|jnp)\.)", names):
            single = name.endswith(" (*single*)")
            row = Finding("", version, mode, name.removesuffix(" (*single*)"), "right", single=single)
            groups[version, mode].append(row)
    return [row for rows in groups.values() for row in rows]


def test_the_page_is_what_the_command_writes_of_its_findings(monkeypatch) -> None:
    text = PAGE.read_text()
    machine, python = re.search(r"; (\S+), CPU, Python (\S+)\.$", text, re.M).groups()
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "python_version", lambda: python)
    assert report.as_markdown(shown_findings(text)) == text
