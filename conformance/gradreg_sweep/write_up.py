"""The text of a report to the framework's maintainers, made of the findings about one operation."""

from collections.abc import Iterable, Sequence

from gradreg_sweep.compositions import COMPOSITIONS
from gradreg_sweep.search import Finding
from gradreg_sweep.upstream import issue
from gradreg_sweep.verdict import LONGEST, SILENT

__all__ = ["where", "write_up"]


def where(findings: Iterable[Finding]) -> str:
    """The compositions of findings, each with its modes, and with dtypes other than float64."""
    modes: dict[str, list[str]] = {}
    for finding in findings:
        dtype = "" if finding.dtype == "float64" else f" in {finding.dtype}"
        modes.setdefault(finding.composition, []).append(finding.mode + dtype)
    return "; ".join(f"{composition} ({', '.join(names)})" for composition, names in modes.items())


def write_up(findings: Sequence[Finding], right: Sequence[Finding], size: str) -> list[str]:
    """The paragraphs of a report: title, program, expected and actual result, compositions.

    Args:
        findings: of silent kinds, or of one other kind; the program is the first's.
        right: findings where the same operation is right.
        size: of the first's error, in words.
    """
    first, same = findings[0], [finding for finding in findings if issue(finding) == issue(findings[0])]
    of_first = first.kind == "first derivative"
    kind = (first.detail or "wrong") if of_first else first.kind
    ways = list(dict.fromkeys(finding.composition for finding in same))
    order = "gradient" if of_first else f"derivative by {_listed(ways)}"
    dtypes = list(dict.fromkeys(finding.dtype for finding in same))
    place = "" if "float64" in dtypes else f" in {_listed(dtypes)}"
    silent = kind in SILENT
    title = f"{first.operation}: the {order} is silently {kind}" if silent else f"{first.operation}: no {order}"
    title += place
    exact = ", as the same program gives in float64" if place else ""
    numbers = "two numbers" if first.dtype == "float64" else "numbers"
    expected, got = {
        "wrong": (f"the {numbers} that it prints agree", f"they differ, by up to {size} of the larger one"),
        "None": (f"a derivative{exact or '; by central differences it is not zero'}", "None, without an error"),
        "NaN": (f"a finite number{exact or ', as central differences give'}", "NaN"),
    }.get(kind, ("a derivative, as the function has one", first.detail))
    about = "" if of_first else f" {ways[0].capitalize()} is {COMPOSITIONS[ways[0]]}."
    rows = [
        title,
        f"Run the program with {first.version} on a CPU.{about}",
        f"Expected: {expected}.",
        f"Got: {got.rstrip('.')}{'...' if len(got) > LONGEST else '.'}",
        "" if of_first else f"Seen by {where(same)}.{f' Right by {where(right)}.' if right else ''}",
    ]
    return [row for row in rows if row]


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
