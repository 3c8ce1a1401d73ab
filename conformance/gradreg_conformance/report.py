"""The report on a backend under test, as a value that goes to and from JSON."""

import json
import math
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from importlib import metadata
from typing import TYPE_CHECKING, Any

from gradreg_conformance.check import LAYERS, Check
from gradreg_conformance.harness import OPTIONAL, Harness
from gradreg_core.cli.arrays import read_json_file
from gradreg_core.errors import DataFileError

if TYPE_CHECKING:
    from gradreg_conformance.subject import Subject

__all__ = ["FAILURES", "SCHEMA", "STATUSES", "Report", "Result", "counted", "ratio", "read_reports", "to_json"]

SCHEMA = 1
"""The version of the JSON file; a file of a later one is refused."""
_KIND = "gradreg conformance"

STATUSES = ("passed", "failed", "expected failure", "unexpected pass", "not applicable", "not run")
FAILURES = ("failed", "unexpected pass")
_RAN = ("passed", "failed", "expected failure", "unexpected pass")


@dataclass(frozen=True, kw_only=True)
class Result:
    """The result of one check."""

    name: str
    layer: str
    """One of :data:`gradreg_conformance.check.LAYERS`."""
    summary: str
    """The claim of the check, in a line."""
    status: str
    """One of STATUSES; "failed" and "unexpected pass" are failures."""
    message: str = ""
    """Why it failed, with code that reproduces it; why it was expected to; why it was not applicable or not run."""
    examples: int = 0
    worst: float | None = None
    """The largest error as a multiple of what rounding allows; None where the check compares no numbers."""
    seconds: float = 0.0
    pairs: tuple[int, int] | None = None
    """Of a check over a joint space of options: the pairs of choices that it ran, and those that are possible."""

    @classmethod
    def of(cls, check: Check, status: str, message: str = "", **measured: Any) -> "Result":
        """The result of `check`."""
        return cls(
            name=check.name,
            layer=LAYERS[check.layer],
            summary=check.summary,
            status=status,
            message=message,
            **measured,
        )

    @property
    def ok(self) -> bool:
        """Whether it is not a failure."""
        return self.status not in FAILURES

    @property
    def ran(self) -> bool:
        """Whether the check came to a result about the backend."""
        return self.status in _RAN


def _versions() -> dict[str, str]:
    own = {"python": platform.python_version()}
    for name in ("numpy", "hypothesis", "gradreg"):
        try:
            own[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # an uninstalled checkout
            own[name] = str(getattr(sys.modules.get(f"{name}_core", sys.modules.get(name)), "__version__", "unknown"))
    return own


@dataclass(frozen=True, kw_only=True)
class Report:
    """The results of one backend on one device."""

    backend: str
    versions: Mapping[str, str] = field(default_factory=_versions)
    """Of the framework, Python, NumPy, hypothesis and gradreg."""
    platform: str = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    device: str
    modes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    """The portable layers that the harness can build."""
    tolerance: float = 1.0
    """The harness's multiplier of all tolerances; 1 unless it asks for more."""
    profile: str
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    """Of the run, in UTC, ISO 8601."""
    checks: tuple[Result, ...] = ()
    left_out: tuple[str, ...] = ()
    """The checks of the kit that were not asked for."""
    defaults: tuple[str, ...] = ()
    """The optional methods of the harness that it leaves at their default, without which checks see less."""
    error: str = ""
    """Why there are no checks, if the run was cut off."""

    @classmethod
    def of(cls, subject: "Subject", results: Iterable[Result], left_out: Sequence[str] = ()) -> "Report":
        """The report of these results."""
        harness = subject.harness
        return cls(
            backend=subject.name,
            versions={**harness.versions, **_versions()},
            device=subject.device,
            modes=tuple(harness.modes),
            dtypes=tuple(harness.dtypes),
            capabilities=tuple(sorted(subject.capabilities)),
            layers=tuple(sorted(layer.__name__ for layer in harness.layers)),
            tolerance=float(harness.tolerance),
            profile=subject.profile.name,
            checks=tuple(results),
            left_out=tuple(left_out),
            defaults=tuple(name for name in OPTIONAL if getattr(type(harness), name) is getattr(Harness, name)),
        )

    @property
    def totals(self) -> dict[str, int]:
        """Status -> number of checks, all of STATUSES."""
        counts = Counter(result.status for result in self.checks)
        return {status: counts[status] for status in STATUSES}

    @property
    def ran(self) -> int:
        """The number of checks that came to a result."""
        return sum(result.ran for result in self.checks)

    @property
    def failures(self) -> tuple[Result, ...]:
        """The checks that failed, or passed though they were expected to fail."""
        return tuple(result for result in self.checks if not result.ok)

    @property
    def ok(self) -> bool:
        """Whether no check failed, and at least one ran."""
        return not self.failures and self.ran > 0 and not self.error

    @property
    def examples(self) -> int:
        """Of all checks."""
        return sum(result.examples for result in self.checks)

    @property
    def seconds(self) -> float:
        """Of all checks."""
        return sum(result.seconds for result in self.checks)

    @property
    def worst(self) -> float | None:
        """The largest error of the checks that passed, as a multiple of what rounding allows."""
        passed = (result.worst for result in self.checks if result.status == "passed")
        return max((worst for worst in passed if worst is not None), default=None)

    @property
    def conditions(self) -> dict[str, str]:
        """The conditions of the verdict: what was multiplied, skipped, expected to fail, left out, and not combined."""
        named = {
            "Tolerance": "as measured" if self.tolerance == 1 else f"{self.tolerance:g} times the measured",
            "Skipped": self._names("not applicable"),
            "Not run": self._names("not run"),
            "Expected to fail": self._names("expected failure"),
            "Not chosen": ", ".join(self.left_out),
            "Left out by the harness": ", ".join(self.defaults),
        }
        for check in self.checks:
            if check.pairs is not None:
                covered, possible = check.pairs
                named["Pairs of options"] = f"{covered} of {possible}, {100 * covered / possible:.0f} %"
        return {name: text for name, text in named.items() if text}

    def _names(self, status: str) -> str:
        return ", ".join(check.name for check in self.checks if check.status == status)

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
        values = asdict(self) | {"versions": dict(self.versions), "checks": [_plain(result) for result in self.checks]}
        return values | {"totals": self.totals, "ok": self.ok, "verdict": self.verdict}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Report":
        """The report that :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        own = {one.name: values[one.name] for one in fields(cls) if one.name in values or one.name != "defaults"}
        for name, value in own.items():
            if isinstance(value, list) and name != "checks":
                own[name] = tuple(map(str, value))
        return cls(**own | {"checks": tuple(_result(result) for result in values["checks"])})


def counted(number: int, noun: str) -> str:
    """The number and the noun, in the plural unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def ratio(worst: float | None) -> str:
    """A multiple of what rounding allows, in few characters; empty for None."""
    if worst is None:
        return ""
    return f"{worst:.2f}" if worst < 100 else f"{worst:.0e}"


def to_json(reports: Sequence[Report]) -> str:
    """One JSON text of all reports."""
    content = {"kind": _KIND, "schema": SCHEMA, "reports": [report.to_dict() for report in reports]}
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def read_reports(path: str | os.PathLike[str]) -> list[Report]:
    """The reports in a JSON file that ``gradreg conformance --report`` wrote.

    Raises:
        DataFileError: it cannot be read, or is another kind of file.
    """
    content = read_json_file(path)
    if not isinstance(content, dict) or content.get("kind") != _KIND:
        raise DataFileError(f"conformance: {path} is not a report; expected a file that --report FILE.json wrote.")
    if content.get("schema") != SCHEMA:
        raise DataFileError(
            f"conformance: {path} has schema {content.get('schema')!r}, this gradreg reads {SCHEMA}; upgrade gradreg."
        )
    try:
        return [Report.from_dict(report) for report in content["reports"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataFileError(f"conformance: {path} is damaged: {reason}. Write it again with --report.") from error


def _plain(result: Result) -> dict[str, Any]:
    """A check as JSON values; JSON has no infinity, so an infinite error is a string."""
    worst = result.worst
    return asdict(result) | {"worst": "infinity" if worst is not None and not math.isfinite(worst) else worst}


def _result(values: Mapping[str, Any]) -> Result:
    if values["layer"] not in LAYERS or values["status"] not in STATUSES:
        raise ValueError(f"layer {values['layer']!r}, status {values['status']!r}")
    worst = values["worst"]
    own = {one.name: values[one.name] for one in fields(Result) if one.name != "pairs"}
    pairs = values.get("pairs")  # which older reports do not have
    if pairs is not None:
        own["pairs"] = int(pairs[0]), int(pairs[1])
    return Result(**own | {"worst": None if worst is None else float(worst)})
