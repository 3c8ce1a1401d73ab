"""A job: everything that determines a training run. Its key is a hash of that, so results cannot be confused."""

from dataclasses import asdict, dataclass
from typing import Any

from gradreg_core.schema import to_dict
from gradreg_core.spec import Regularizer
from gradreg_experiments.shapes import digest

__all__ = ["VERSION", "Job"]

VERSION = 1
"""Increased when the same settings would give different results."""


@dataclass(frozen=True)
class Job:
    """One training run."""

    protocol: Any
    """How to train: a frozen dataclass of JSON values, with a field `steps`."""
    regularizer: Regularizer | None
    """The regularizer, weight decay included."""
    seed: int
    """The seed of the training subset, the initial weights, the batches, the masks and the draws."""
    backend: str
    data: str
    """A digest of the data, or the data's name."""
    kind: str = ""
    """The result's contents if they differ from those of :func:`gradreg_experiments.paper.run.run_jobs`."""

    def as_json(self) -> dict[str, Any]:
        """All settings, as JSON values."""
        return {
            "version": VERSION,
            "protocol": asdict(self.protocol),
            "regularizer": None if self.regularizer is None else to_dict(self.regularizer),
            "seed": self.seed,
            "backend": self.backend,
            "data": self.data,
        } | ({"kind": self.kind} if self.kind else {})

    @property
    def key(self) -> str:
        """A hash of all settings, 16 hexadecimal digits."""
        return digest(self.as_json())
