"""The report of a sweep: a page in Markdown with programs that stand alone, or JSON."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from gradreg_sweep.search import Finding
from gradreg_sweep.verdict import KINDS

__all__ = ["SILENT", "as_markdown", "read", "size", "write"]

SILENT = ("wrong", "None", "NaN")
"""Kinds that a training run does not notice, or notices late."""

METHOD = """\
What `gradreg sweep` finds in the frameworks themselves, in operations and layers that users' models are made of: second
derivatives that are wrong, None, NaN or missing. Written from the command's runs in the versions named; each program
below stands alone, with the framework and NumPy, and shows what its row says.
"""

HOW = """\
## Method

Around each operation stands a small smooth network, f(x, A) = sin(op(tanh(x A))), since much that is wrong does not
show behind linear layers; hypothesis also draws f(x) = sin(op(x)). With w fixed, J^T w is the gradient of <w, f> with
respect to x by the framework's own plain means, and Q = ||J^T w||^2 is what a gradient regularizer penalises.

The framework's gradient of Q with respect to x, A, the operation's own arrays and its layer's variables, each along a
random direction, is compared with 2 <J^T w, d(J^T w)/dt>, where the derivative is by central differences of J^T w in
float64, extrapolated to step 0 (Ridders), with an estimate of their own error. This takes the first derivative to be
right; that too is tested, against differences of <w, f>, and reported apart.

The size of an error is relative, along one direction, and the largest of those met: 1 means that nothing of the number
is right. The examples are small, so in a large network it will be another. A result counts as wrong where it is off by
more than 1e-7 and by more than ten times the differences' own error estimate; where the operation computes in float32
inside (marked *single*), by more than 3e-3; in a float32 run, also by more than eight times what perturbing the arrays
in the last place changes. Points where the derivatives from the left and the right disagree, or the differences do not
converge to 1e-3, are near a kink, and are not judged.

Hypothesis draws shapes, options and data, and shrinks what it finds. "Right" below means: in none of a few examples
wrong. It is said of the function that the operation computes: `tf.nn.gelu` in float64, whose constants are float32's,
has the derivatives of what it computes.
"""


def size(finding: Finding) -> str:
    """The size of the error, or nothing where there is no number."""
    return f"{finding.error:.0e}" if finding.error and finding.kind not in ("NaN", "raises") else ""


def as_markdown(findings: Sequence[Finding]) -> str:
    """The page."""
    lines = ["# Findings", "", METHOD]
    versions = list(dict.fromkeys(each.version for each in findings))
    lines += [f"Versions: {'; '.join(versions)}; {platform.machine()}, CPU, Python {platform.python_version()}.", ""]
    lines += _summary(findings)
    silent = [each for each in findings if each.kind in SILENT]
    first = [each for each in findings if each.kind == "first derivative"]
    loud = [each for each in findings if each.kind == "raises"]
    lines += ["## Wrong without a word", ""]
    lines += _table(silent) if silent else ["Nothing."]
    lines += ["", "## No second derivative", "", "An error says so.", ""]
    lines += _table(loud) if loud else ["Nothing."]
    lines += ["", "## Wrong or missing in the first derivative", ""]
    lines += _table(first) if first else ["Nothing."]
    lines += ["", HOW, "## Right", ""]
    for (name, mode), group in _groups(findings).items():
        right = [f"{each.operation}{' (*single*)' if each.single else ''}" for each in group if each.kind == "right"]
        lines += [f"**{name}, {mode}** ({len(right)}): {', '.join(right) or 'none'}.", ""]
        unknown = [f"{each.operation} ({each.detail})" for each in group if each.kind == "undecided"]
        lines += [f"Undecided: {'; '.join(unknown)}.", ""] if unknown else []
    lines += ["## Programs", ""]
    for number, each in enumerate([*silent, *loud, *first], 1):
        lines += _program(number, each)
    return "\n".join(lines).rstrip() + "\n"


def _groups(findings: Sequence[Finding]) -> dict[tuple[str, str], list[Finding]]:
    groups: dict[tuple[str, str], list[Finding]] = {}
    for each in findings:
        groups.setdefault((each.version, each.mode), []).append(each)
    return groups


def _summary(findings: Sequence[Finding]) -> list[str]:
    kinds = list(KINDS)
    lines = [f"| framework | mode | operations | {' | '.join(kinds)} |", f"|---|---|---|{'---|' * len(kinds)}"]
    for (name, mode), group in _groups(findings).items():
        counts = [str(sum(each.kind == kind for each in group)) for kind in kinds]
        lines.append(f"| {name} | {mode} | {len(group)} | {' | '.join(counts)} |")
    return [*lines, "", *[f"- *{kind}*: {text}." for kind, text in KINDS.items()], ""]


def _table(findings: Sequence[Finding]) -> list[str]:
    lines = ["| operation | framework | mode | kind | size of the error | remark |", "|---|---|---|---|---|---|"]
    for each in findings:
        remarks = [each.detail[:120], *(f"also {kind}" for kind in each.also), "*single*" if each.single else ""]
        remark = "; ".join(filter(None, remarks)).replace("|", "\\|")
        link = f"[{each.operation}](#{_anchor(each)})"
        lines.append(f"| {link} | {each.version} | {each.mode} | {each.kind} | {size(each)} | {remark} |")
    return lines


def _anchor(finding: Finding) -> str:
    words = "".join(letter if letter.isalnum() else "-" for letter in f"{finding.operation}-{finding.mode}".lower())
    return "-".join(filter(None, words.split("-")))


def _program(number: int, finding: Finding) -> list[str]:
    return [
        f'<a id="{_anchor(finding)}"></a>',
        "<details>",
        f"<summary>{number}. {finding.operation}, {finding.mode}: {finding.kind} {size(finding)}</summary>",
        "",
        "```python",
        finding.reproduction.rstrip(),
        "```",
        "",
        "</details>",
        "",
    ]


def write(path: Path, findings: Sequence[Finding]) -> None:
    """Write JSON or, by the name's ending, Markdown."""
    if path.suffix == ".json":
        path.write_text(json.dumps({"findings": [asdict(each) for each in findings]}, indent=1) + "\n")
    else:
        path.write_text(as_markdown(findings))


def read(path: Path) -> list[Finding]:
    """The findings of a JSON report."""
    known = {each.name for each in fields(Finding)}
    rows: list[dict[str, Any]] = json.loads(path.read_text())["findings"]
    return [Finding(**{k: tuple(v) if k == "also" else v for k, v in row.items() if k in known}) for row in rows]
