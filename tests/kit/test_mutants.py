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
ALONE = {mutant.killed_by[0]: mutant for mutant in reversed(MUTANTS.values()) if mutant.alone}
"""For each check the first mutant that no other kills, by which the check is shown to be needed."""


def killers(mutant: Mutant, names: list[str]) -> dict[str, str]:
    """The checks of those names that fail, with their messages."""
    with mutant.make() as harness:
        checks = [CHECKS[name] for name in names]
        results = run_subject(Subject("mutant", harness, QUICK), checks, stop=False)
    return {result.name: result.message for result in results if not result.ok}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_a_mutant_is_killed_by_the_checks_that_are_named(mutant: Mutant) -> None:
    assert killers(mutant, list(mutant.killed_by)).keys() == set(mutant.killed_by)


@pytest.mark.slow
@pytest.mark.sample(14)
@pytest.mark.parametrize("check", CHECKS)
def test_without_any_one_check_some_mutant_would_live(check: str) -> None:
    others = [name for name in CHECKS if name not in {check, *GENERAL}]
    assert not killers(ALONE[check], others)


@pytest.mark.slow
def test_the_honest_original_passes() -> None:
    results = run_subject(Subject("honest", harness_of(), QUICK), stop=False)
    assert not [(result.name, result.message) for result in results if not result.ok]
