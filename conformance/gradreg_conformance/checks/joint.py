"""Whole calls from the joint space of terms and options, against the reference: every pair of choices in some call."""

from typing import Any

from hypothesis import strategies as st

from gradreg_conformance.check import check
from gradreg_conformance.design import ABSENT, Choice, Design
from gradreg_conformance.joint import case_of, design_of
from gradreg_conformance.outcomes import Disagreement, NotApplicable
from gradreg_conformance.subject import TO_REPRODUCE, Subject

_CALLS = 8
"""Of the design, for each example that the profile asks for."""


_ROOM = 4.0
"""Of what rounding allows for small sums: sums of several hundred numbers lose more, by up to 2.6 in PyTorch."""


def _agree(subject: Subject, choice: Choice, seed: int) -> None:
    case, of = case_of(choice, seed)
    subject.agree_in_slopes(case, of, _ROOM)


def _smaller(subject: Subject, design: Design, choice: Choice, seed: int) -> Choice:
    """The failing choice with as many factors at their simplest as still make it fail."""
    for name, level in design.space.simplest.items():
        simpler = design.space.settled({**choice, name: level})
        if simpler == choice:
            continue
        try:
            _agree(subject, simpler, seed)
        except Exception:
            choice = simpler
    return choice


def _told(subject: Subject, design: Design, choice: Choice, seed: int) -> Disagreement:
    """The disagreement on a smaller failing choice, with what has to be chosen for it."""
    smaller = _smaller(subject, design, choice, seed) if subject.profile.shrink else choice
    needed = {name: level for name, level in smaller.items() if level not in (ABSENT, design.space.simplest[name])}
    case, of = case_of(smaller, seed)
    try:
        _agree(subject, smaller, seed)
    except Exception as error:
        problem = str(error) if isinstance(error, Disagreement) else f"{type(error).__name__}: {error}"
    else:
        problem = "the call failed once and passed the second time"
    # Penalties and totals can be computed again one by one; of the parts the total is.
    lines = subject.reproduce(case, "penalty" if of == "penalty" else "total")
    return Disagreement(f"{problem.partition(TO_REPRODUCE)[0]}\nIt needs {needed}.{lines}")


@check("gradients", general=True)
def calls_with_all_options(subject: Subject) -> None:
    """Sums of terms with all options at once, every pair of them: values, parts and all gradients."""
    design = design_of(subject.harness)
    wanted = _CALLS * subject.profile.examples
    for seed, choice in enumerate(design.choices[:wanted]):
        subject.measured.examples += 1
        try:
            _agree(subject, choice, seed)
        except NotApplicable:
            raise
        except Exception as error:
            raise _told(subject, design, choice, seed) from error
    count = min(wanted, len(design.choices))
    subject.measured.pairs = design.covered[count], design.covered[-1]
    if wanted > count:
        _beyond(subject, design)


def _beyond(subject: Subject, design: Design) -> None:
    """Calls that hypothesis draws, for what needs more than two choices."""
    levels: dict[str, Any] = {name: st.sampled_from(levels) for name, levels in design.space.factors.items()}

    @subject.given(st.fixed_dictionaries(levels).map(design.space.settled), st.integers(0, 99))
    def _(choice, seed):  # type: ignore[no-untyped-def]
        _agree(subject, choice, seed)
