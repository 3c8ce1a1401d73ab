"""The report of a sweep: pages in Markdown with programs that stand alone, or JSON records."""

import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cattrs
from jinja2 import Environment, PackageLoader, StrictUndefined

from gradreg_sweep.compositions import COMPOSITIONS
from gradreg_sweep.search import Finding
from gradreg_sweep.upstream import REPORTS, UNREPORTED, issue
from gradreg_sweep.verdict import KINDS, SILENT, UNTRIED
from gradreg_sweep.write_up import where, write_up

__all__ = ["SILENT", "as_pages", "changes", "read", "size", "texts", "write"]

_UNJUDGED = (UNTRIED, "undecided")


@dataclass(frozen=True)
class _Row:
    """The findings of one kind about one operation, over compositions and modes; the first has the program."""

    findings: tuple[Finding, ...]
    right: tuple[Finding, ...] = ()
    """Where the same operation was right in float64."""
    low: bool = False
    """Whether the findings are of lower dtypes, and the same derivative is right in float64."""

    @property
    def first(self) -> Finding:
        return self.findings[0]

    @property
    def size(self) -> str:
        return size(max(self.findings, key=lambda finding: finding.error))

    @property
    def where(self) -> str:
        return where(self.findings)

    @property
    def remark(self) -> str:
        single = "*single*" if any(finding.single for finding in self.findings) else ""
        ways = {finding.composition for finding in self.findings}
        other = [finding for finding in self.right if finding.composition in ways]
        right = f"right by {where(other)}" if other else ""
        return "; ".join(filter(None, [self.first.detail[:120], single, right])).replace("|", "\\|")

    @property
    def anchor(self) -> str:
        name = f"{self.first.operation}-{self.first.kind}{'-' + self.first.dtype if self.low else ''}"
        return re.sub(r"[\W_]+", "-", name.lower()).strip("-")

    @property
    def page(self) -> str:
        return f"{self.first.framework}.md"

    @property
    def issue(self) -> str:
        """The reports of the findings, each once."""
        return ", ".join(dict.fromkeys(map(issue, self.findings)))

    @property
    def text(self) -> list[str]:
        """The paragraphs of a report about the program, the title first; empty if it is reported."""
        return [] if issue(self.first) != UNREPORTED else write_up(self.findings, self.right, size(self.first))


def _tried(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.kind != UNTRIED]


def size(finding: Finding) -> str:
    """The size of the error; empty if there is no number."""
    return f"{finding.error:.0e}" if finding.error and finding.kind not in ("NaN", "raises") else ""


def _rows(findings: Iterable[Finding]) -> list[_Row]:
    """A row for an operation's silent kinds, one for each other kind, and rows apart for faults of lower dtypes."""
    findings = _tried(findings)
    exact = {_place(finding)[:-1]: finding.kind for finding in findings if finding.dtype == "float64"}
    groups: dict[tuple[str, str, str, bool], list[Finding]] = {}
    for finding in findings:
        kind, known = finding.kind, exact.get(_place(finding)[:-1], "undecided")
        low = known == "right" or kind == "first derivative" != known != "undecided"
        key = finding.version, finding.operation, "silent" if kind in SILENT else kind
        groups.setdefault((*key, low and finding.dtype != "float64"), []).append(finding)
    rows = []
    for (version, operation, _, low), group in groups.items():
        right = [row for row in groups.get((version, operation, "right", False), ()) if row.dtype == "float64"]
        rows.append(_Row(tuple(group), tuple(right), low))
    return rows


def texts(findings: Iterable[Finding]) -> dict[str, list[str]]:
    """Program -> the paragraphs of a report about it, the title first; empty if it is reported."""
    return {row.first.reproduction: row.text for row in _rows(findings) if row.first.reproduction}


def as_pages(findings: Sequence[Finding], stem: str = "findings", compared: Sequence[Finding] = ()) -> dict[str, str]:
    """The pages by their path: the summary ``stem.md``, and ``stem/FRAMEWORK.md`` with the programs.

    The summary says how those in `compared`, of other versions, differ.
    """
    environment = Environment(
        loader=PackageLoader("gradreg_sweep"),
        trim_blocks=True,
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701
    )
    environment.filters["plain"] = lambda text: text.replace("__", r"\_\_")  # names in messages, not emphasis
    groups: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in sorted(_tried(findings), key=lambda finding: list(COMPOSITIONS).index(finding.composition)):
        groups.setdefault((finding.version, finding.composition, finding.mode, finding.dtype), []).append(finding)
    versions = list(dict.fromkeys(finding.version for finding in findings))
    groups = dict(sorted(groups.items(), key=lambda item: versions.index(item[0][0])))
    rows, others = _rows(findings), _versions(findings, compared)
    summary = environment.get_template("findings.md").render(
        stem=stem,
        findings=findings,
        groups=list(groups.items()),
        kinds=KINDS,
        compositions={name: text for name, text in COMPOSITIONS.items() if any(key[1] == name for key in groups)},
        low=[row for row in rows if row.low and row.first.kind not in ("right", "undecided")],
        silent=[row for row in rows if row.first.kind in SILENT],
        loud=[row for row in rows if row.first.kind == "raises"],
        first=[row for row in rows if row.first.kind == "first derivative"],
        reports=[
            (report, report.outcome(_tried([*findings, *compared])))
            for report in REPORTS
            if any(report.framework == finding.framework for finding in findings)
        ],
        versions=others,
        issue=issue,
        machine=platform.machine(),
        python=platform.python_version(),
    )
    coverage = environment.get_template("coverage.md").render(
        stem=stem,
        covered=_coverage([finding for finding in findings if finding.dtype == "float64"]),
        low=_low(findings),
    )
    pages = {f"{stem}.md": summary, f"{stem}/coverage.md": coverage}
    for name in dict.fromkeys(finding.framework for finding in findings):
        own = [row for row in rows if row.first.framework == name]
        pages[f"{stem}/{name}.md"] = environment.get_template("framework.md").render(
            version=own[0].first.version,
            shown=[row for row in own if row.first.reproduction],
            others=[row for pair in others for row in pair.silent if row.first.framework == name],
            groups=[(key, group) for key, group in groups.items() if group[0].framework == name],
        )
    return {path: page.rstrip() + "\n" for path, page in pages.items()}


_Listed = dict[str, tuple[int, dict[str, list[str]]]]
"""Group of operations -> their number, and their names by module."""


def _coverage(findings: Sequence[Finding]) -> list[tuple[str, _Listed, _Listed]]:
    """Each version with the operations examined, by compositions, and the others, by reason."""
    rows = []
    for version in dict.fromkeys(finding.version for finding in findings):
        own = [finding for finding in findings if finding.version == version]
        ways: dict[str, list[str]] = {}
        for finding in _tried(own):
            ways.setdefault(finding.operation, []).append(finding.composition)
        examined: dict[str, list[str]] = {}
        for operation, compositions in ways.items():
            examined.setdefault(", ".join(dict.fromkeys(compositions)), []).append(operation)
        others: dict[str, list[str]] = {}
        for finding in own:
            if finding.kind == UNTRIED:
                others.setdefault(finding.detail, []).append(finding.operation)
        rows.append((version, _listed(examined), _listed(others)))
    return rows


def _low(findings: Sequence[Finding]) -> dict[str, list[tuple[str, str, int, _Listed]]]:
    """Version -> its lower dtypes, each with compositions, number of operations, and those left out, by reason."""
    rows: dict[str, list[tuple[str, str, int, _Listed]]] = {}
    own = [finding for finding in findings if finding.dtype != "float64"]
    exact = [finding for finding in _tried(findings) if finding.dtype == "float64"]
    for version, dtype in dict.fromkeys((finding.version, finding.dtype) for finding in own):
        same = [finding for finding in own if (finding.version, finding.dtype) == (version, dtype)]
        ran = {finding.operation for finding in same}
        left = [row.operation for row in exact if row.version == version and row.operation not in ran]
        others: dict[str, list[str]] = {"it was not run": list(dict.fromkeys(left))} if left else {}
        for finding in same:
            if finding.kind == UNTRIED and finding.operation not in others.setdefault(finding.detail, []):
                others[finding.detail].append(finding.operation)
        ways = ", ".join(dict.fromkeys(f"{finding.composition} ({finding.mode})" for finding in same))
        count = len({finding.operation for finding in _tried(same)})
        rows.setdefault(version, []).append((dtype, ways, count, _listed(others)))
    return rows


def _listed(groups: dict[str, list[str]]) -> _Listed:
    return {group: (len(names), _by_module(names)) for group, names in groups.items()}


def _by_module(operations: Sequence[str]) -> dict[str, list[str]]:
    """The names without their module, in Markdown; a name without dots has the module ``other``."""
    modules: dict[str, list[str]] = {}
    for operation in operations:
        dotted = re.fullmatch(r"([\w.]+)\.(\w+\b.*)", operation)
        module, name = (dotted[1], dotted[2]) if dotted else ("other", operation)
        modules.setdefault(module, []).append(name.replace("_", r"\_"))
    return {module.replace("_", r"\_"): names for module, names in modules.items()}


@dataclass(frozen=True)
class _Versions:
    """The differences between two versions of a framework."""

    before: str
    after: str
    count: int
    """The number of records that both have: an operation by a composition in a mode."""
    changed: list[tuple[Finding, Finding]]

    silent: list[_Row]
    """The second version's silent errors that the first does not have."""

    @property
    def mended(self) -> int:
        return sum(after.kind == "right" for _, after in self.changed)

    @property
    def broken(self) -> int:
        return sum(before.kind == "right" for before, _ in self.changed)


def _versions(findings: Sequence[Finding], compared: Sequence[Finding]) -> list[_Versions]:
    """The records that were judged in two versions of a framework, compared."""
    findings, compared = ([row for row in rows if row.kind not in _UNJUDGED] for rows in (findings, compared))
    rows = []
    for other in dict.fromkeys(finding.version for finding in compared):
        after = [finding for finding in compared if finding.version == other]
        before = [row for row in findings if row.framework == after[0].framework and row.version != other]
        known, same = {_place(row) for row in before}, {_place(row) for row in after}
        if known & same:
            changed = changes(before, after)
            new = {_place(row) for was, row in changed if row.kind in SILENT and was.kind not in SILENT}
            silent = [row for row in _rows(after) if row.first.reproduction and _place(row.first) in new]
            rows.append(_Versions(before[0].version, other, len(known & same), changed, silent))
    return rows


def _place(finding: Finding) -> tuple[str, ...]:
    return finding.framework, finding.operation, finding.mode, finding.composition, finding.dtype


def write(path: Path, findings: Sequence[Finding], compared: Sequence[Finding] = ()) -> list[Path]:
    """Write JSON or, by the name's ending, pages in Markdown; see :func:`as_pages`. Returns the files."""
    if path.suffix == ".json":
        lines = ",\n".join(json.dumps(_record(finding)) for finding in findings)
        path.write_text(f'{{"findings": [\n{lines}\n]}}\n')
        return [path]
    pages = {path.parent / name: page for name, page in as_pages(findings, path.stem, compared).items()}
    for file, page in pages.items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(page)
    return list(pages)


def _record(finding: Finding) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    plain = asdict(Finding("", "", "", "", ""))
    return {name: value for name, value in asdict(finding).items() if value != plain[name]}


def read(path: Path) -> list[Finding]:
    """The findings of a JSON report; unknown keys are ignored."""
    return cattrs.structure(json.loads(path.read_text())["findings"], list[Finding])


def changes(before: Sequence[Finding], after: Sequence[Finding]) -> list[tuple[Finding, Finding]]:
    """The findings of the same operation, mode and composition whose kinds differ, as (before, after)."""
    known = {_place(finding): finding for finding in before}
    pairs = [(known[_place(finding)], finding) for finding in after if _place(finding) in known]
    return [(one, other) for one, other in pairs if one.kind != other.kind]
