"""How a check ends where it does not pass."""

from unittest import SkipTest

__all__ = ["Disagreement", "NotApplicable"]


class Disagreement(AssertionError):  # noqa: N818 - said of a backend
    """The backend is wrong: what was asked, expected and returned."""


class NotApplicable(SkipTest):
    """The subject lacks, by its own declaration, what the check is about; the message says what.

    A test runner takes it for a skipped test, and hypothesis does not look for a smaller example of it.
    """
