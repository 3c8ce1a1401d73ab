"""The conformance kit kills every mutant, and no check of it is idle."""

from dataclasses import replace

import pytest
from mutants import MUTANTS, Mutant
from mutants.mutant import harness_of

from gradreg_conformance.profiles import PROFILES
from gradreg_conformance.runner import all_checks, run_subject
from gradreg_conformance.subject import Subject

CHECKS = all_checks()
GENERAL = {name for name, check in CHECKS.items() if check.general}
"""They draw from everything, and may meet any fault, by luck: hypothesis draws other examples where sources change."""
QUICK = replace(PROFILES["quick"], shrink=False)  # the same examples; a failing one is not made smaller


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed_by_the_checks_that_are_named(mutant: Mutant) -> None:
    named = [CHECKS[name] for name in mutant.killed_by]
    with mutant.make() as harness:
        results = run_subject(Subject("mutant", harness, QUICK), None if mutant.exactly else named, stop=False)
    failed = {result.name: result.message for result in results if not result.ok}
    assert set(mutant.killed_by) <= failed.keys() <= {*mutant.killed_by, *GENERAL}, failed


def test_the_honest_original_passes() -> None:
    results = run_subject(Subject("honest", harness_of(), QUICK), stop=False)
    assert not [(result.name, result.message) for result in results if not result.ok]


def test_without_any_one_check_some_mutant_would_live() -> None:
    alone = {mutant.killed_by[0] for mutant in MUTANTS.values() if mutant.exactly and len(mutant.killed_by) == 1}
    assert set(CHECKS) == alone
