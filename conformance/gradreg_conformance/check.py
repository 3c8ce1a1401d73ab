"""A check: a function over a subject, with a layer, what it needs of the subject, and a place in the registry."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING

from gradreg_conformance.outcomes import Disagreement, NotApplicable

if TYPE_CHECKING:
    from gradreg_conformance.subject import Subject

__all__ = ["CHECKS", "LAYERS", "Check", "Disagreement", "NotApplicable", "check"]

LAYERS = ("loads", "primitives", "values", "gradients", "laws", "modes")
"""The layers L0 to L5. After a failure in one, the later ones are not run: they would only repeat it."""


@dataclass(frozen=True)
class Check:
    """One named check.

    Args:
        name: unique; the function's.
        layer: an index into LAYERS.
        run: raises :class:`Disagreement` (or anything else) where the subject is wrong, :class:`NotApplicable` where
            it lacks what the check is about.
        general: whether it draws from everything, and may meet any fault. The others name what is wrong.
    """

    name: str
    layer: int
    run: Callable[["Subject"], None]
    general: bool = False

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0]

    def __call__(self, subject: "Subject") -> None:
        """Run the check; see `run`."""
        self.run(subject)

    def __str__(self) -> str:
        return self.name


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order of their layers; filled by importing :mod:`gradreg_conformance.checks`."""


def check(layer: str, *, general: bool = False) -> Callable[[Callable[["Subject"], None]], Callable[["Subject"], None]]:
    """Register a function over a subject as a check of `layer`, one of LAYERS; `general` as in :class:`Check`."""

    def register(function: Callable[["Subject"], None]) -> Callable[["Subject"], None]:
        name = function.__name__
        assert name not in CHECKS, f"two checks are named {name!r}"
        assert function.__doc__, f"the check {name!r} has no docstring"

        @wraps(function)
        def run(subject: "Subject") -> None:
            with subject.session():
                function(subject)

        CHECKS[name] = Check(name, LAYERS.index(layer), run, general)
        return run

    return register
