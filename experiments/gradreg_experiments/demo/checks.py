"""Every installed backend against the NumPy reference, by a few checks of the conformance kit."""

import os
from collections.abc import Sequence

import joblib
from rich.console import Console
from threadpoolctl import threadpool_limits

from gradreg_conformance.report import Report
from gradreg_core.cli.terminal import make_table
from gradreg_experiments.trainers import usable

__all__ = ["CHECKS", "check_backends", "print_agreement"]

CHECKS = {
    "float64": "gradients_of_the_total",
    "float32": "float32",
    "any regularizer, any network": "any_regularizer_of_any_network",
}
"""Heading of the table -> the check."""


def check_backends(names: Sequence[str]) -> list[Report]:
    """Run the checks over the named backends, each in a process of its own."""
    parallel = joblib.Parallel(n_jobs=max(1, len(names)))
    reports: list[Report] = parallel(joblib.delayed(_checked)(name) for name in names)
    return reports


def _checked(name: str) -> Report:
    from gradreg_conformance.runner import run_checks

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # without it TensorFlow describes its build on stderr
    with threadpool_limits(1):
        return run_checks(name, checks=list(CHECKS.values()), stop=False)


def print_agreement(console: Console) -> None:
    """The largest error of loss, penalty and gradients in each check, for every backend that can train here."""
    table = make_table(
        ("backend", *CHECKS, ""),
        right=tuple(CHECKS),
        title="largest error of values and gradients against the NumPy reference; rounding explains 1",
    )
    for report in check_backends(usable()[0]):
        by_name = {check.name: check for check in report.checks}
        cells = [by_name[name].worst for name in CHECKS.values()]
        table.add_row(
            report.backend,
            *("-" if worst is None else f"{worst:.2g}" for worst in cells),
            "agrees" if report.ok else "DISAGREES",
        )
    console.print(table)
