"""One test per check and backend; :mod:`gradreg_conformance.plugin` has the options."""

import pytest

from gradreg_conformance.check import Check
from gradreg_conformance.plugin import PROPERTY, STOPPED
from gradreg_conformance.report import Result
from gradreg_conformance.runner import expect_known, find_subject, not_run, run_check, select
from gradreg_conformance.subject import Subject
from gradreg_core.errors import GradregError

__all__ = ["pytest_generate_tests", "test_conformance"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per check and backend, in the order of the layers."""
    config = metafunc.config
    names = dict.fromkeys(config.getoption("gradreg_backend", None) or ())
    if not names:
        raise pytest.Collector.CollectError(
            "gradreg_conformance.suite: no backend was named; run it with\n"
            "pytest -p gradreg_conformance.plugin --pyargs gradreg_conformance.suite --gradreg-backend NAME"
        )
    checks = select()
    parameters = []
    try:
        for name in names:
            subject = find_subject(name, config.getoption("gradreg_profile"), config.getoption("gradreg_device"))
            expect_known(subject)
            parameters += [pytest.param(check, subject, id=f"{name}-{check}") for check in checks]
    except GradregError as error:
        raise pytest.Collector.CollectError(str(error)) from error
    metafunc.parametrize(("check", "subject"), parameters)


def test_conformance(check: Check, subject: Subject, request: pytest.FixtureRequest) -> None:
    """The claim of the check holds for the subject."""
    stopped = request.config.stash[STOPPED]
    broken = stopped.get(subject.name)
    if broken is not None and check.layer > broken and not request.config.getoption("gradreg_keep_going"):
        result = Result.of(check, "not run", not_run(broken))
    else:
        result = run_check(check, subject)
    if not result.ok:
        stopped.setdefault(subject.name, check.layer)
    worst = result.worst if result.status == "passed" else None
    request.node.user_properties.append(
        (PROPERTY, {"backend": subject.name, "about": _about(subject), "status": result.status, "worst": worst})
    )
    if result.status in ("not applicable", "not run"):
        pytest.skip(f"{result.status}: {result.message}")
    if result.status == "expected failure":
        pytest.xfail(result.message)
    if not result.ok:
        pytest.fail(result.message, pytrace=False)


def _about(subject: Subject) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in subject.harness.versions.items())
    return f"{versions}; {subject.device}; {subject.profile.name}"
