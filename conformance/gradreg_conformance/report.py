"""What became of a backend under test, as a value that goes to and from JSON."""

import json
import math
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradreg_conformance.check import LAYERS
from gradreg_core.errors import DataFileError

if TYPE_CHECKING:
    from gradreg_conformance.runner import Result
    from gradreg_conformance.subject import Subject

__all__ = ["FAILURES", "SCHEMA", "STATUSES", "CheckReport", "Report", "counted", "ratio", "read_reports", "to_json"]

SCHEMA = 1
"""The version of the JSON file; a file of a later one is refused."""
_KIND = "gradreg conformance"

STATUSES = ("passed", "failed", "expected failure", "unexpected pass", "not applicable", "not run")
FAILURES = ("failed", "unexpected pass")
_RAN = ("passed", "failed", "expected failure", "unexpected pass")


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What became of one check."""

    name: str
    layer: str
    """One of :data:`gradreg_conformance.check.LAYERS`."""
    summary: str
    """What the check claims, in a line."""
    status: str
    """One of STATUSES."""
    message: str = ""
    """Why it failed, with code that reproduces it; why it was expected to; why it was not applicable or not run."""
    examples: int = 0
    worst: float | None = None
    """The largest error as a multiple of what rounding allows; None where the check compares no numbers."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether it is no failure."""
        return self.status not in FAILURES

    @property
    def ran(self) -> bool:
        """Whether the check came to a result about the backend."""
        return self.status in _RAN


@dataclass(frozen=True, kw_only=True)
class Report:
    """What became of one backend on one device."""

    backend: str
    versions: Mapping[str, str]
    """Of what computes, of Python, NumPy, hypothesis and gradreg."""
    platform: str
    device: str
    modes: tuple[str, ...]
    dtypes: tuple[str, ...]
    capabilities: tuple[str, ...]
    layers: tuple[str, ...]
    """The portable layers that the harness can build."""
    tolerance: float
    """The harness's multiplier of all tolerances; 1 unless it asks for more."""
    profile: str
    date: str
    """Of the run, in UTC, ISO 8601."""
    checks: tuple[CheckReport, ...] = ()
    left_out: tuple[str, ...] = ()
    """The checks of the kit that were not asked for."""
    error: str = ""
    """Why there are no checks, where the run ended before its end."""

    @classmethod
    def of(cls, subject: "Subject", results: "Iterable[Result]", left_out: Sequence[str] = ()) -> "Report":
        """The report of these results."""
        harness = subject.harness
        checks = tuple(
            CheckReport(
                name=each.check.name,
                layer=LAYERS[each.check.layer],
                summary=each.check.summary,
                status=each.status,
                message=each.message,
                examples=each.examples,
                worst=None if each.worst is None else float(each.worst),
                seconds=round(each.seconds, 3),
            )
            for each in results
        )
        return cls(
            backend=subject.name,
            versions={**harness.versions, **_versions()},
            platform=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            device=subject.device,
            modes=tuple(harness.modes),
            dtypes=tuple(harness.dtypes),
            capabilities=tuple(sorted(subject.capabilities)),
            layers=tuple(sorted(each.__name__ for each in harness.layers)),
            tolerance=float(harness.tolerance),
            profile=subject.profile.name,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            checks=checks,
            left_out=tuple(left_out),
        )

    @classmethod
    def broken(cls, backend: str, profile: str, device: str, error: str) -> "Report":
        """The report of a run that ended before it had any."""
        return cls(
            backend=backend,
            versions=_versions(),
            platform=f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
            device=device,
            modes=(),
            dtypes=(),
            capabilities=(),
            layers=(),
            tolerance=1.0,
            profile=profile,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            error=error,
        )

    @property
    def totals(self) -> dict[str, int]:
        """Status -> number of checks, all of STATUSES."""
        found = Counter(each.status for each in self.checks)
        return {status: found[status] for status in STATUSES}

    @property
    def ran(self) -> int:
        """The number of checks that came to a result."""
        return sum(each.ran for each in self.checks)

    @property
    def failures(self) -> tuple[CheckReport, ...]:
        """The checks that failed, or passed though they were expected to fail."""
        return tuple(each for each in self.checks if not each.ok)

    @property
    def ok(self) -> bool:
        """Whether no check failed, and at least one ran."""
        return not self.failures and self.ran > 0 and not self.error

    @property
    def examples(self) -> int:
        """Of all checks."""
        return sum(each.examples for each in self.checks)

    @property
    def seconds(self) -> float:
        """Of all checks."""
        return sum(each.seconds for each in self.checks)

    @property
    def worst(self) -> float | None:
        """The largest error of the checks that passed, as a multiple of what rounding allows."""
        return max(
            (each.worst for each in self.checks if each.status == "passed" and each.worst is not None), default=None
        )

    @property
    def verdict(self) -> str:
        """One line, such as "conforms"; it says so where checks were left out or expected to fail."""
        if self.error:
            return f"not tested: {self.error}"
        if not self.ran:
            return "not tested: no check ran"
        if self.failures:
            return f"does not conform: {len(self.failures)} of {counted(self.ran, 'check')} failed"
        expected = self.totals["expected failure"]
        but = f", but for {counted(expected, 'expected failure')}" if expected else ""
        if self.left_out:
            return f"{counted(self.ran, 'chosen check')} passed{but}, {len(self.left_out)} not chosen"
        return f"conforms{but}"

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, with totals and verdict, which are not read back."""
        found = asdict(self) | {"versions": dict(self.versions), "checks": [_plain(each) for each in self.checks]}
        return found | {"totals": self.totals, "ok": self.ok, "verdict": self.verdict}

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Report":
        """The report that :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        own = {each.name: found[each.name] for each in fields(cls)}
        for name, value in own.items():
            if isinstance(value, list) and name != "checks":
                own[name] = tuple(map(str, value))
        return cls(**own | {"checks": tuple(_check(each) for each in found["checks"])})


def counted(number: int, noun: str) -> str:
    """The number and the noun, in the plural but for 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ratio(worst: float | None) -> str:
    """A multiple of what rounding allows, in few characters; empty for None."""
    if worst is None:
        return ""
    return f"{worst:.2f}" if worst < 100 else f"{worst:.0e}"


def to_json(reports: Sequence[Report]) -> str:
    """One JSON text of all reports."""
    found = {"kind": _KIND, "schema": SCHEMA, "reports": [each.to_dict() for each in reports]}
    return json.dumps(found, indent=1, allow_nan=False) + "\n"


def read_reports(path: str | os.PathLike[str]) -> list[Report]:
    """The reports in a JSON file that ``gradreg conformance --report`` wrote.

    Raises:
        DataFileError: it cannot be read, or is no such file.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataFileError(f"conformance: {path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict) or found.get("kind") != _KIND:
        raise DataFileError(f"conformance: {path} is no report; expected a file that --report FILE.json wrote.")
    if found.get("schema") != SCHEMA:
        raise DataFileError(
            f"conformance: {path} has schema {found.get('schema')!r}, this gradreg reads {SCHEMA}; upgrade gradreg."
        )
    try:
        return [Report.from_dict(each) for each in found["reports"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataFileError(f"conformance: {path} is damaged: {what}. Write it anew with --report.") from error


def _plain(check: CheckReport) -> dict[str, Any]:
    """A check as JSON values; JSON has no infinity, so an infinite error is a string."""
    worst = check.worst
    return asdict(check) | {"worst": "infinity" if worst is not None and not math.isfinite(worst) else worst}


def _check(found: Mapping[str, Any]) -> CheckReport:
    if found["layer"] not in LAYERS or found["status"] not in STATUSES:
        raise ValueError(f"layer {found['layer']!r}, status {found['status']!r}")
    worst = found["worst"]
    own = {each.name: found[each.name] for each in fields(CheckReport)}
    return CheckReport(**own | {"worst": None if worst is None else float(worst)})


def _versions() -> dict[str, str]:
    own = {"python": platform.python_version()}
    for name in ("numpy", "hypothesis", "gradreg"):
        try:
            own[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # an uninstalled checkout
            own[name] = str(getattr(sys.modules.get(f"{name}_core", sys.modules.get(name)), "__version__", "unknown"))
    return own
