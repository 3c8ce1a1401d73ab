"""The report of a validation: a table of differences in units of roundoff, a verdict and a cause."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Agreement", "Row"]


@dataclass(frozen=True)
class Row:
    """One quantity, compared."""

    quantity: str
    difference: float
    """||second - first|| over the larger of the two norms."""
    roundoff: float
    """The relative difference that roundoff alone makes here, measured; the unit of `ratio`."""
    ratio: float
    """difference / roundoff."""
    agrees: bool
    """Whether the ratio is at most the tolerance."""


@dataclass(frozen=True)
class Agreement:
    """Whether two models compute the same penalty and the same gradients, as far as roundoff can tell."""

    backends: tuple[str, str]
    dtype: str
    """The coarser of the two models' dtypes, which sets the unit roundoff."""
    rows: tuple[Row, ...]
    layers: tuple[Row, ...]
    """The named activations that both have, in order."""
    first_divergence: str | None
    """The first layer whose activations differ by more than roundoff; None if there is none."""
    cause: str | None
    """The cause that the pattern of differences shows; None if the models agree."""
    notes: tuple[str, ...]
    tolerance: float
    """The largest ratio that counts as agreement."""
    unit: str
    """How the roundoff was measured."""
    draws: str
    """The step and the seeds of the random draws, which are the same in both frameworks."""
    versions: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether every quantity agrees."""
        return all(row.agrees for row in self.rows)

    @property
    def verdict(self) -> str:
        """``"agree"`` or ``"disagree"``."""
        return "agree" if self.ok else "disagree"

    def __str__(self) -> str:
        first, second = self.backends
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        lines = [f"gradreg validate: {first} and {second} {self.verdict}", *_table("quantity", self.rows)]
        if self.layers:
            lines += ["", *_table("activations", self.layers)]
        lines.append("")
        if self.cause:
            lines.append(f"cause: {self.cause}")
        if self.first_divergence:
            lines.append(f"first layer that differs: {self.first_divergence}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"unit: {self.unit}; agreement is a ratio of at most {self.tolerance:g}", f"draws: {self.draws}"]
        return "\n".join([*lines, f"versions: {versions}"])

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values; a number that is not finite becomes None."""
        values = {"verdict": self.verdict, "ok": self.ok} | asdict(self)
        return {name: _finite(value) for name, value in values.items()}

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _table(heading: str, rows: Sequence[Row]) -> list[str]:
    width = max(len(heading), *(len(row.quantity) for row in rows)) if rows else len(heading)
    lines = [f"{heading:<{width}}  difference  roundoff     ratio"]
    for row in rows:
        mark = "ok" if row.agrees else "DIFFERS"
        ratio = f"{row.ratio:.2g}" if row.ratio < 1e4 else f"{row.ratio:.0e}"
        lines.append(f"{row.quantity:<{width}}  {row.difference:10.1e}  {row.roundoff:8.1e}  {ratio:>8}  {mark}")
    return lines
