"""The pytest front: options and a summary for the tests of :mod:`gradreg_conformance.suite`.

    pytest -p gradreg_conformance.plugin --pyargs gradreg_conformance.suite --gradreg-backend NAME

It is not an entry point of pytest, which would load it in every run of every project on the machine.
"""

from collections import Counter
from typing import Any

import pytest

from gradreg_core.errors import GradregError

__all__ = ["PROPERTY", "STOPPED"]

pytest.register_assert_rewrite("gradreg_conformance.checks")

PROPERTY = "gradreg_conformance"
"""The user property of a test's report: backend, device, versions, status and worst error of its check."""
STOPPED = pytest.StashKey[dict[str, int]]()
"""Backend -> the first layer in which a check failed."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("gradreg", "gradreg conformance")
    group.addoption(
        "--gradreg-backend",
        action="append",
        default=[],
        metavar="NAME",
        help="A backend to test, by its name or 'module:callable' of its harness. Repeat it for several.",
    )
    group.addoption(
        "--gradreg-profile",
        choices=("quick", "default", "thorough"),
        default="quick",
        help="How many examples a check draws [quick].",
    )
    group.addoption("--gradreg-device", default="", metavar="DEVICE", help="Such as cuda [the harness's first].")
    keep_going = "After a failure in one layer of checks, run the later ones too."
    group.addoption("--gradreg-keep-going", action="store_true", help=keep_going)


def pytest_configure(config: pytest.Config) -> None:
    """Refuse an absent backend before anything runs."""
    from gradreg_core.plugins.dispatch import find_backend

    config.stash[STOPPED] = {}
    backends = list(dict.fromkeys(config.getoption("gradreg_backend")))
    for name in backends:
        try:
            if ":" not in name:
                find_backend(name)
        except GradregError as error:
            raise pytest.UsageError(str(error)) from error
    if backends and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Summary(config, backends), "gradreg_conformance_summary")


class _Summary:
    """The results of the requested backends; in the main process, also where xdist runs the tests."""

    def __init__(self, config: pytest.Config, backends: list[str]) -> None:
        self.config, self.backends = config, backends
        self.results: dict[str, list[dict[str, Any]]] = {name: [] for name in backends}

    def pytest_report_header(self) -> str:
        return f"gradreg conformance: {', '.join(self.backends)}; profile {self.config.getoption('gradreg_profile')}"

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            properties: list[tuple[str, Any]] = report.user_properties
            for result in (value for name, value in properties if name == PROPERTY):
                self.results.setdefault(result["backend"], []).append(result)

    @property
    def untested(self) -> list[str]:
        """The backends with no check that came to a result."""
        idle = ("not applicable", "not run")
        return [name for name, results in self.results.items() if all(result["status"] in idle for result in results)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Zero checks are a failure."""
        passing = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if self.untested and session.exitstatus in passing and not self.config.getoption("collectonly"):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: "pytest.TerminalReporter") -> None:
        if self.config.getoption("collectonly"):
            return
        terminalreporter.section("gradreg conformance")
        for name, results in self.results.items():
            if name in self.untested:
                terminalreporter.write_line(f"{name}: FAILED, no check ran", red=True)
                continue
            counts = Counter(result["status"] for result in results)
            worst = max((result["worst"] for result in results if result["worst"] is not None), default=None)
            line = (
                f"{name} ({results[0]['about']}): {', '.join(f'{count} {status}' for status, count in counts.items())}"
            )
            terminalreporter.write_line(line + (f"; worst error {worst:.2g} of what rounding allows" if worst else ""))
