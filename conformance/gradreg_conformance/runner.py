"""Runs checks over a subject, layer by layer."""

import difflib
import textwrap
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gradreg_conformance.check import CHECKS, LAYERS, Check, Disagreement, NotApplicable
from gradreg_conformance.harness import Harness
from gradreg_conformance.memory import Memory
from gradreg_conformance.report import Report, Result
from gradreg_conformance.subject import Measured, Subject, load_subject
from gradreg_core.errors import InputError, PluginError

__all__ = [
    "all_checks",
    "describe",
    "expect_known",
    "find_subject",
    "not_run",
    "run_check",
    "run_checks",
    "run_subject",
    "select",
]

_GROWTH = 500.0
"""Megabytes of compiled programs that are kept from check to check."""


def run_checks(
    backend: str | Harness | Subject,
    profile: str = "quick",
    checks: Sequence[str | Check] | None = None,
    device: str = "",
    *,
    stop: bool = True,
    starting: Callable[[Check], None] | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Report:
    """Run the checks over one backend.

    Args:
        backend: its name, a harness, or ``"module:callable"``, which makes one.
        profile: "quick", "default" or "thorough": how many examples, and whether they are the same in every run.
        checks: those to run, by name; None for all.
        device: one of the harness's devices; empty for its first.
        stop: whether the layers after one with a failure are "not run".
        starting: called with each check before it runs.
        progress: called with each result as it comes.

    Returns:
        A report, whose `ok` says whether the backend passed: no check failed, and at least one ran.

    Raises:
        BackendNotFoundError, BackendImportError, PluginError: the backend is absent, or has no harness that works.
        PluginError: an expected failure of the harness names no check.
        InputError: an unknown check, profile or device, or an empty list of checks.
    """
    subject = find_subject(backend, profile, device)
    chosen = select(checks)
    expect_known(subject, chosen)
    results = run_subject(subject, chosen, stop=stop, starting=starting, progress=progress)
    left_out = () if checks is None else tuple(name for name in all_checks() if name not in set(map(str, chosen)))
    return Report.of(subject, results, left_out)


def all_checks() -> Mapping[str, Check]:
    """All checks by name, in the order of their layers."""
    import gradreg_conformance.checks  # noqa: F401 - fills CHECKS

    return {check.name: check for check in sorted(CHECKS.values(), key=lambda check: check.layer)}


def select(checks: Sequence[str | Check] | None = None) -> list[Check]:
    """The checks of these names, in the order of their layers; all of them for None.

    Raises:
        InputError: there is no check of that name, or the list is empty.
    """
    known = all_checks()
    if checks is None:
        return list(known.values())
    if isinstance(checks, str) or not checks:
        raise InputError(f"run_checks: expected a list of names of checks, or None for all of them, got {checks!r}.")
    for name in checks:
        if isinstance(name, str) and name not in known:
            raise InputError(
                f"run_checks: there is no check {name!r}.{_similar(name, known)} "
                "'gradreg conformance --list' lists them all."
            )
    chosen = {str(check): known[check] if isinstance(check, str) else check for check in checks}
    return sorted(chosen.values(), key=lambda check: check.layer)


def find_subject(backend: str | Harness | Subject, profile: str = "quick", device: str = "") -> Subject:
    """The subject to test; arguments and errors as in :func:`run_checks`."""
    from gradreg_conformance.profiles import PROFILES

    if profile not in PROFILES:
        raise InputError(f"run_checks: profile must be one of {', '.join(PROFILES)}, got {profile!r}.")
    if isinstance(backend, Subject):
        subject = backend
    elif isinstance(backend, str):
        subject = load_subject(backend, profile)
    else:
        kind = type(backend)
        subject = Subject(f"{kind.__module__}:{kind.__qualname__}", backend, PROFILES[profile])
    if device and device not in subject.harness.devices:
        available = ", ".join(subject.harness.devices)
        raise InputError(f"run_checks: {subject.name} has no device {device!r} here; available: {available}.")
    return replace(subject, device=device or subject.device)


def expect_known(subject: Subject, chosen: Sequence[Check] = ()) -> None:
    """Refuse expected failures that are not checks: they would expect nothing.

    Raises:
        PluginError: such a name.
    """
    known = [*all_checks(), *map(str, chosen)]
    for name, reason in subject.harness.expected_failures.items():
        expects = f"conformance: the harness of {subject.name} expects {name!r} to fail"
        if name not in known:
            raise PluginError(f"{expects}, and there is no such check.{_similar(name, known)}")
        if not reason.strip():
            raise PluginError(f"{expects}, and gives no reason.")


def _similar(name: str, known: Sequence[str] | Mapping[str, Check]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def run_check(check: Check, subject: Subject) -> Result:
    """Run one check. Any exception becomes its result; only an interrupt is raised."""
    measured = Measured()
    subject = replace(subject, measured=measured)
    reason = subject.harness.expected_failures.get(check.name)
    start = time.perf_counter()
    status, message = "passed", ""
    try:
        check.run(subject)
    except NotApplicable as lacks:
        status, message = "not applicable", str(lacks)
    except Exception as raised:
        status, message = "failed", describe(raised)
    if reason is not None and status in ("passed", "failed"):
        status = "expected failure" if status == "failed" else "unexpected pass"
        message = reason if status == "expected failure" else f"expected to fail, and passed: {reason}"
    seconds = round(time.perf_counter() - start, 3)
    worst = None if measured.worst is None else float(measured.worst)
    return Result.of(
        check, status, message, examples=measured.examples, worst=worst, seconds=seconds, pairs=measured.pairs
    )


def run_subject(
    subject: Subject,
    checks: Sequence[Check] | None = None,
    *,
    stop: bool = True,
    starting: Callable[[Check], None] | None = None,
    progress: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Run checks over a subject in the order of their layers; see :func:`run_checks` for the arguments."""
    results: list[Result] = []
    broken: int | None = None
    memory = Memory(_GROWTH)
    for check in sorted(all_checks().values() if checks is None else checks, key=lambda check: check.layer):
        if stop and broken is not None and check.layer > broken:
            result = Result.of(check, "not run", not_run(broken))
        else:
            if starting is not None:
                starting(check)
            result = run_check(check, subject)
            memory.keep(subject.harness.release)
            broken = check.layer if not result.ok and broken is None else broken
        results.append(result)
        if progress is not None:
            progress(result)
    return results


def not_run(broken: int) -> str:
    """Why a check is not run after a failure in the layer `broken`."""
    return f"a check of an earlier layer failed (L{broken} {LAYERS[broken]})"


def describe(error: BaseException) -> str:
    """The error, where it happened, and how to see it again, without the frames of the kit and of hypothesis."""
    if isinstance(error, Disagreement):
        text = str(error)
    else:
        text = f"{type(error).__name__}: {error}"
        if frames := traceback.extract_tb(error.__traceback__):
            text += f"\n  at {frames[-1].filename}:{frames[-1].lineno} in {frames[-1].name}"
        for inner in getattr(error, "exceptions", ()):
            text += f"\n{textwrap.indent(describe(inner), '  ')}"
    if "To reproduce:" not in text:
        notes = getattr(error, "__notes__", [])
        text = "\n".join([text, *([note for note in notes if note.startswith("To reproduce:")] or notes)])
    return text
