"""The report as one HTML page that needs no scripts and no other files, and prints as a certificate."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from gradreg_conformance.check import LAYERS
from gradreg_conformance.report import STATUSES, Report, counted, ratio

__all__ = ["to_html"]

ABOUT = {
    "loads": "The backend loads and describes itself",
    "primitives": "Array operations, draws and derivatives of its own",
    "values": "Penalties and losses equal the reference",
    "gradients": "Gradients for weights and input equal the reference",
    "laws": "What the mathematics says about every penalty",
    "modes": "The same when compiled, sharded or on another device",
}
"""Layer -> what its checks are about."""

MARKS = {
    "passed": "✓",
    "failed": "✗",
    "expected failure": "!",
    "unexpected pass": "✗",
    "not applicable": "○",
    "not run": "…",
}
"""Status -> a mark, so that colour is never the only sign of a status."""


_GRAVEST = ("failed", "unexpected pass", "expected failure", "passed", "not run", "not applicable")


def to_html(reports: Sequence[Report]) -> str:
    """The page: a certificate or report of one backend, or the matrix and then the reports of several."""
    names = {check.name: check.layer for report in reports for check in report.checks}
    rows = [(layer, [name for name, its in names.items() if its == layer]) for layer in LAYERS]
    return (
        _environment()
        .get_template("page.html")
        .render(
            reports=reports,
            title=_title(reports),
            matrix=[(layer, checks) for layer, checks in rows if checks] if len(reports) > 1 else [],
            cells=[{check.name: check for check in report.checks} for report in reports],
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("gradreg_conformance"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"marks": MARKS, "counted": counted, "layers": LAYERS}
    environment.filters |= {
        "ratio": ratio,
        "share": _share,
        "layered": _layered,
        "slug": _slug,
        "date": _date,
        "number": lambda number: f"{number:,}".replace(",", "\u202f"),
        "seconds": _seconds,
    }
    return environment


def _title(reports: Sequence[Report]) -> str:
    if len(reports) > 1:
        return f"Conformance of {len(reports)} backends"
    (report,) = reports
    whole = report.ok and not report.left_out and not report.totals["expected failure"]
    return "Certificate of conformance" if whole else "Conformance report"


def _layered(report: Report) -> list[dict[str, Any]]:
    """The layers that have checks, as rows of a table."""
    rows = []
    for index, name in enumerate(LAYERS):
        checks = [check for check in report.checks if check.layer == name]
        counts = Counter(check.status for check in checks)
        row = {
            "title": f"L{index} {name}",
            "about": ABOUT[name],
            "checks": checks,
            "counts": ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status]),
            "status": min(counts, key=_GRAVEST.index, default=""),
            "worst": max((check.worst for check in checks if check.worst is not None), default=None),
            "seconds": sum(check.seconds for check in checks),
        }
        rows += [row] if checks else []
    return rows


def _share(worst: float) -> float:
    """The length of the bar, in percent: full at what rounding allows."""
    return round(100 * min(1.0, worst), 1)


def _slug(text: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in text)


def _date(text: str) -> str:
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{date.day} {date:%B %Y, %H:%M} {date.tzname() or ''}".strip()


def _seconds(seconds: Any) -> str:
    return f"{seconds / 60:.0f} min {seconds % 60:.0f} s" if seconds >= 60 else f"{seconds:.1f} s"
