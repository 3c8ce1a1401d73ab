"""The checks as parameters of a pytest test, for your own test suite."""

from collections.abc import Sequence
from typing import Any

import pytest

from gradreg_conformance.check import Check
from gradreg_conformance.harness import Harness
from gradreg_conformance.runner import expect_known, find_subject, select
from gradreg_conformance.subject import Subject
from gradreg_core.errors import InputError

__all__ = ["parametrize_with_checks"]


def parametrize_with_checks(
    backends: Sequence[str | Harness | Subject],
    *,
    profile: str = "quick",
    checks: Sequence[str | Check] | None = None,
    device: str = "",
) -> pytest.MarkDecorator:
    """Parametrize a test by every check and every backend, as ``(check, subject)``.

        @parametrize_with_checks(["acme"])
        def test_conformance(check, subject):
            check(subject)

    A check that is not applicable is a skipped test, with the reason. An expected failure is a strict xfail: when it
    passes, the test fails.

    Args:
        backends: names, ``"module:callable"`` of harnesses, harnesses, or subjects.
        profile: "quick", "default" or "thorough".
        checks: those to run, by name; None for all.
        device: one of the harness's devices; empty for its first.

    Raises:
        BackendNotFoundError, BackendImportError, PluginError, InputError: as :func:`gradreg_conformance.run_checks`.
        InputError: no backend.
    """
    if isinstance(backends, str) or not backends:
        raise InputError(f"parametrize_with_checks: expected a list of backends, such as ['torch'], got {backends!r}.")
    parameters = []
    chosen = select(checks)
    for backend in backends:
        subject = find_subject(backend, profile, device)
        expect_known(subject, chosen)
        parameters += [_parameter(check, subject) for check in chosen]
    return pytest.mark.parametrize(("check", "subject"), parameters)


def _parameter(check: Check, subject: Subject) -> Any:
    reason = subject.harness.expected_failures.get(check.name)
    marks = [] if reason is None else [pytest.mark.xfail(strict=True, reason=reason)]
    return pytest.param(check, subject, id=f"{subject.name}-{check.name}", marks=marks)
