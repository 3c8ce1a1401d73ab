"""The report of a sweep: a page in Markdown with programs that stand alone, or JSON."""

import json
import platform
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import cattrs
from jinja2 import Environment, PackageLoader, StrictUndefined

from gradreg_core.cli.arrays import read_json_file
from gradreg_core.errors import DataFileError
from gradreg_sweep.search import Finding
from gradreg_sweep.verdict import KINDS

__all__ = ["SILENT", "as_markdown", "read", "size", "write"]

SILENT = ("wrong", "None", "NaN")
"""Kinds that a training run does not notice, or notices late."""


def size(finding: Finding) -> str:
    """The size of the error; empty if there is no number."""
    return f"{finding.error:.0e}" if finding.error and finding.kind not in ("NaN", "raises") else ""


def _remark(finding: Finding) -> str:
    parts = [finding.detail[:120], *(f"also {kind}" for kind in finding.also), "*single*" if finding.single else ""]
    return "; ".join(filter(None, parts)).replace("|", "\\|")


def _anchor(words: str) -> str:
    return re.sub(r"[\W_]+", "-", words.lower()).strip("-")


def as_markdown(findings: Sequence[Finding]) -> str:
    """The page."""
    environment = Environment(
        loader=PackageLoader("gradreg_sweep"),
        trim_blocks=True,
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701
    )
    environment.filters |= {"size": size, "remark": _remark, "anchor": _anchor}
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.version, finding.mode), []).append(finding)
    page = environment.get_template("findings.md").render(
        findings=findings,
        groups=list(groups.items()),
        kinds=KINDS,
        silent=[finding for finding in findings if finding.kind in SILENT],
        loud=[finding for finding in findings if finding.kind == "raises"],
        first=[finding for finding in findings if finding.kind == "first derivative"],
        machine=platform.machine(),
        python=platform.python_version(),
    )
    return page.rstrip() + "\n"


def write(path: Path, findings: Sequence[Finding]) -> None:
    """Write JSON or, by the name's ending, Markdown."""
    if path.suffix == ".json":
        path.write_text(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=1) + "\n")
    else:
        path.write_text(as_markdown(findings))


def read(path: Path) -> list[Finding]:
    """The findings of a JSON report; keys that are not known are left out.

    Raises:
        DataFileError: it cannot be read, or is another kind of file.
    """
    content = read_json_file(path, "a sweep's report")
    try:
        return cattrs.structure(content["findings"], list[Finding])
    except Exception as error:  # cattrs raises groups of whatever its hooks raise
        raise DataFileError(
            f"{path}: is no report of a sweep: {type(error).__name__}. Give a file that --report FILE.json wrote."
        ) from error
