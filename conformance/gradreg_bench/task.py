"""Tasks and results of one measuring process: values that are passed as JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cattrs

from gradreg_bench.timing import Spread
from gradreg_core.plugins.discovery import backends

__all__ = ["HostRow", "Measurement", "Result", "Task", "model_title"]


def model_title(model: str, batch: int) -> str:
    """A model in tables and figures, with its batch, unless it has its own."""
    return f"{model}, batch {batch}" if batch else model


@dataclass(frozen=True)
class Task:
    """One model in one framework, with its variants timed in one process."""

    framework: str
    """The name of a backend, followed by ``-`` and a mode unless it is the backend's first: "jax", "jax-fast"."""
    model: str
    """A key of NETWORKS, or ``"module:factory"``."""
    batch: int
    """The number of samples; 0 for a factory, which has its own."""
    projections: tuple[int, ...]
    patterns: tuple[str, ...]
    repeats: int
    threads: int
    clock: str = "wall"
    """A key of :data:`gradreg_bench.timing.CLOCKS`."""
    memory_of: str | None = None
    """Measure only the memory of this variant, not its time."""
    regularizers: tuple[tuple[str, str], ...] = ()
    """(name, JSON of `to_dict`) of regularizers to time instead of the built-in variants."""
    device: str = "cpu"
    precision: str = "float32"
    """The precision of products: a key of :data:`gradreg_bench.steps.PRECISIONS`."""

    @property
    def backend(self) -> str:
        """The backend in `framework`; all of `framework` if no backend of that name is registered."""
        names = [record.name for record in backends()]
        known = [name for name in names if f"{self.framework}-".startswith(f"{name}-")]
        return max(known, key=len, default=self.framework)

    @property
    def mode(self) -> str:
        """The mode in `framework`; empty for the backend's first."""
        return self.framework[len(self.backend) + 1 :]

    def to_dict(self) -> dict[str, Any]:
        """The task as JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """From `to_dict`."""
        return cattrs.structure(values, cls)


@dataclass(frozen=True)
class Measurement:
    """One variant."""

    name: str
    ratio: Spread | None
    """The ratio of its time to the plain step's in the same round."""
    seconds: float | None
    """The median time of a step."""
    limit: float | None
    """The lowest ratio of exact double backpropagation; None if unknown."""
    memory: int | None = None
    """The peak memory of a step above the memory before it, in bytes."""
    failed: str = ""
    """The reason if there are no numbers."""

    @property
    def share_of_limit(self) -> float | None:
        """The limit over the ratio: 1 if the step takes no longer than its arithmetic."""
        return None if self.ratio is None or self.limit is None else self.limit / self.ratio.median


@dataclass(frozen=True)
class HostRow:
    """One case, with `loss` and written directly."""

    name: str
    microseconds: float
    """The shortest time of `loss` over all rounds."""
    by_hand: float
    python_calls: float
    """Python function calls in one call of `loss`, the mean over 32 steps."""
    calls_by_hand: float
    operations: int | None
    """Operations that the framework launches, without views; None if unknown."""
    operations_by_hand: int | None

    @property
    def overhead(self) -> float:
        """Microseconds more than when written directly."""
        return self.microseconds - self.by_hand


@dataclass(frozen=True)
class Result:
    """All variants of a task."""

    task: Task
    first_layer_share: float | None
    allocator: str
    measurements: tuple[Measurement, ...] = ()
    host: tuple[HostRow, ...] = ()
    """The host's share of a call, if requested."""
    draws_agree: bool | None = None
    """Whether the draws on the device have the published bits; None if not requested."""

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON values."""
        rows = [asdict(row) | {"share_of_limit": row.share_of_limit} for row in self.measurements]
        return {**asdict(self), "measurements": rows}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Result":
        """Make a result from `to_dict`; ignore other keys, such as the load in a file of results."""
        return cattrs.structure(values, cls)
