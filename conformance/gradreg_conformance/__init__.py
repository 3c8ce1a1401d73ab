"""The conformance kit: property-based proof that a backend computes the right penalties and second-order gradients.

`run_checks("torch")` runs it and returns a :class:`Report`; `parametrize_with_checks` puts the checks into a test suite
of one's own; ``gradreg conformance`` and the pytest plugin :mod:`gradreg_conformance.plugin` are its other fronts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradreg_conformance.cases import Case
    from gradreg_conformance.check import Check, Disagreement, NotApplicable
    from gradreg_conformance.harness import Harness, load_harness
    from gradreg_conformance.parametrize import parametrize_with_checks
    from gradreg_conformance.report import Report, Result, read_reports
    from gradreg_conformance.reproduce import agreement
    from gradreg_conformance.runner import run_checks
    from gradreg_conformance.subject import Subject, load_subject

__all__ = [
    "Case",
    "Check",
    "Disagreement",
    "Harness",
    "NotApplicable",
    "Report",
    "Result",
    "Subject",
    "agreement",
    "load_harness",
    "load_subject",
    "parametrize_with_checks",
    "read_reports",
    "run_checks",
]

_HOMES = {
    "Case": "cases",
    "Check": "check",
    "Disagreement": "check",
    "Harness": "harness",
    "NotApplicable": "check",
    "Report": "report",
    "Result": "report",
    "Subject": "subject",
    "agreement": "reproduce",
    "load_harness": "harness",
    "load_subject": "subject",
    "parametrize_with_checks": "parametrize",
    "read_reports": "report",
    "run_checks": "runner",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is asked for: pytest loads the plugin before the rest may be imported."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
