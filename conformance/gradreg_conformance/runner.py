"""Runs checks over a subject, layer by layer, and says of each what became of it."""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gradreg_conformance.check import CHECKS, Check, NotApplicable
from gradreg_conformance.subject import Measured, Subject

__all__ = ["STATUSES", "Result", "run_check", "run_subject"]

STATUSES = ("passed", "failed", "expected failure", "unexpected pass", "not applicable", "not run")


@dataclass(frozen=True)
class Result:
    """What became of one check."""

    check: Check
    status: str
    """One of STATUSES; "failed" and "unexpected pass" are failures."""
    message: str = ""
    """Why it failed, was not applicable, or was not run."""
    examples: int = 0
    worst: float | None = None
    """The largest error as a multiple of what rounding allows, where the check compares numbers."""
    seconds: float = 0.0
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether it is no failure."""
        return self.status not in ("failed", "unexpected pass")


def run_check(check: Check, subject: Subject) -> Result:
    """Run one check. Whatever it raises is its result; nothing but an interrupt gets out."""
    measured = Measured()
    subject = replace(subject, measured=measured)
    reason = subject.harness.expected_failures.get(check.name)
    start = time.perf_counter()
    status, message, error = "passed", "", None
    try:
        check.run(subject)
    except NotApplicable as lacks:
        status, message = "not applicable", str(lacks)
    except Exception as raised:
        status, error = "failed", raised
        message = "".join(traceback.format_exception_only(raised)).strip()
    if reason is not None and status in ("passed", "failed"):
        status = "expected failure" if status == "failed" else "unexpected pass"
        message = reason if status == "expected failure" else f"expected to fail, and passed: {reason}"
    seconds = time.perf_counter() - start
    return Result(check, status, message, measured.examples, measured.worst, seconds, error)


def run_subject(
    subject: Subject,
    checks: Sequence[Check] | None = None,
    *,
    stop: bool = True,
    progress: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Run checks over a subject in the order of their layers.

    Args:
        subject: what is tested.
        checks: those to run; None for all.
        stop: whether the layers after one with a failure are "not run".
        progress: called with each result as it comes.
    """
    import gradreg_conformance.checks  # noqa: F401 - fills CHECKS

    results: list[Result] = []
    broken: int | None = None
    for check in sorted(CHECKS.values() if checks is None else checks, key=lambda each: each.layer):
        if stop and broken is not None and check.layer > broken:
            result = Result(check, "not run", f"a check of an earlier layer failed (layer {broken})")
        else:
            result = run_check(check, subject)
            broken = check.layer if not result.ok and broken is None else broken
        results.append(result)
        if progress is not None:
            progress(result)
    return results
