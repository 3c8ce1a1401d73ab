"""The table of tested versions; as a script it adds a report of the kit to it, and writes it into the page.

python docs/versions.py REPORT.json [--tests TESTS.xml]

The script ends with 1 where a check or a test failed, after it has written the page.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

PAGE = Path(__file__).with_name("versions.md")
RESULTS = Path(__file__).with_name("versions.json")
ORDER = ("numpy", "torch", "jax", "tensorflow")
HEADER = """| backend | Python | versions | kit: passed | failed | not applicable | tests: passed | failed | run on |
|---|---|---|---|---|---|---|---|---|
"""


def rows(report: dict[str, Any], tests: str | None = None) -> list[dict[str, Any]]:
    """One result per backend in a report of the kit, with the numbers of pytest's JUnit file."""
    counts = None
    if tests is not None:
        suite = next(iter(ElementTree.fromstring(tests).iter("testsuite"))).attrib  # noqa: S314 - pytest's own file
        failed = int(suite["failures"]) + int(suite["errors"])
        counts = {"passed": int(suite["tests"]) - failed - int(suite["skipped"]), "failed": failed}
    return [
        {
            "backend": kit["backend"],
            "versions": {name: re.sub(r"\+.*", "", version) for name, version in kit["versions"].items()},
            "kit": {name: kit["totals"][name] for name in ("passed", "failed", "not applicable")},
            "tests": counts,
            "date": kit["date"][:10],
        }
        for kit in report["reports"]
    ]


def merged(known: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All results, one per combination of versions, the oldest framework first."""
    by_versions = {(row["backend"], *sorted(row["versions"].items())): row for row in known + new}

    def place(row: dict[str, Any]) -> tuple[int, list[list[int]]]:
        names = [row["backend"], "keras", "python", "numpy"]
        numbers = [[int(n) for n in re.findall(r"\d+", row["versions"].get(name, ""))] for name in names]
        return ORDER.index(row["backend"]), numbers

    return sorted(by_versions.values(), key=place)


def table(results: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    lines = []
    for row in results:
        versions = {name: version for name, version in row["versions"].items() if name not in ("python", "gradreg")}
        names = ", ".join(f"{name} {version}" for name, version in versions.items())
        tests = row["tests"] or {"passed": "-", "failed": "-"}
        cells = [row["backend"], row["versions"]["python"], names, *row["kit"].values(), *tests.values(), row["date"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |\n")
    return HEADER + "".join(lines)


def page(text: str, results: list[dict[str, Any]]) -> str:
    """The page with a new table."""
    start, end = text.index(HEADER.splitlines()[0]), text.index("\n\n", text.index(HEADER.splitlines()[0]))
    return text[:start] + table(results).rstrip("\n") + text[end:]


def failures(results: list[dict[str, Any]]) -> list[str]:
    """The failures, and the missing runs, of each result."""
    lines = []
    for row in results:
        for kind, counts in (("checks", row["kit"]), ("tests", row["tests"] or {"failed": 0, "passed": 1})):
            if counts["failed"] or not counts["passed"]:
                lines.append(f"{row['backend']}: {counts['failed']} {kind} failed, {counts['passed']} passed")
    return lines


def main() -> None:
    """Add results and write the page; without arguments only the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", nargs="?", type=Path)
    parser.add_argument("--tests", type=Path)
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text())
    new: list[dict[str, Any]] = []
    if arguments.report is not None:
        tests = None if arguments.tests is None else arguments.tests.read_text()
        new = rows(json.loads(arguments.report.read_text()), tests)
        results = merged(results, new)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(PAGE.read_text(), results))
    if failed := failures(new):
        raise SystemExit("\n".join(failed))


if __name__ == "__main__":
    main()
