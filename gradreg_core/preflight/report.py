"""The findings of the check."""

from dataclasses import dataclass

from gradreg_core.errors import DoubleBackwardError, InputError

__all__ = ["CheckReport", "Finding"]


@dataclass(frozen=True)
class Finding:
    """One result of the check."""

    level: str
    """"error" (training would fail or be wrong) or "warning" (training may not do what is intended)."""
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.level}: {self.problem} {self.remedy}".rstrip()


@dataclass(frozen=True)
class CheckReport:
    """The findings, and how far the penalty's gradient was from finite differences."""

    findings: tuple[Finding, ...]
    disagreement: float | None
    """Relative difference between the directional derivative of the penalty along a random input direction and the
    best central difference; None if it could not be formed."""
    notes: tuple[str, ...] = ()
    """Notes on how the model runs: that it is compiled, that devices or processes share it."""

    @property
    def ok(self) -> bool:
        """Whether no finding is an error."""
        return not any(finding.level == "error" for finding in self.findings)

    def __str__(self) -> str:
        lines = [*(f"seen: {note}" for note in self.notes), *map(str, self.findings)]
        if self.disagreement is not None:
            lines.append(f"penalty gradient against finite differences: relative difference {self.disagreement:.1e}")
        return "\n".join([f"gradreg check: {'passed' if self.ok else 'failed'}", *lines])

    def raise_if_failed(self) -> None:
        """Raise the errors, if any.

        Raises:
            DoubleBackwardError: an operation has no second derivative.
            InputError: anything else is wrong.
        """
        if not self.ok:
            no_second = any("second derivative" in finding.problem for finding in self.findings)
            raise (DoubleBackwardError if no_second else InputError)(str(self))
