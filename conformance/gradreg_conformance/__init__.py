"""The conformance kit: property-based proof that a backend computes the right penalties and second-order gradients.

`run_checks("torch")` runs it and returns a :class:`Report`; `parametrize_with_checks` puts the checks into your own
test suite; ``gradreg conformance`` and the pytest plugin :mod:`gradreg_conformance.plugin` are its other fronts.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradreg_conformance.cases import Case as Case
    from gradreg_conformance.check import Check as Check
    from gradreg_conformance.check import Disagreement as Disagreement
    from gradreg_conformance.check import NotApplicable as NotApplicable
    from gradreg_conformance.harness import Harness as Harness
    from gradreg_conformance.harness import load_harness as load_harness
    from gradreg_conformance.parametrize import parametrize_with_checks as parametrize_with_checks
    from gradreg_conformance.report import Report as Report
    from gradreg_conformance.report import Result as Result
    from gradreg_conformance.report import read_reports as read_reports
    from gradreg_conformance.reproduce import agreement as agreement
    from gradreg_conformance.runner import run_checks as run_checks
    from gradreg_conformance.subject import Subject as Subject
    from gradreg_conformance.subject import load_subject as load_subject

_MODULES = {
    "cases": ("Case",),
    "check": ("Check", "Disagreement", "NotApplicable"),
    "harness": ("Harness", "load_harness"),
    "parametrize": ("parametrize_with_checks",),
    "report": ("Report", "Result", "read_reports"),
    "reproduce": ("agreement",),
    "runner": ("run_checks",),
    "subject": ("Subject", "load_subject"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: pytest loads the plugin before the rest may be imported."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
