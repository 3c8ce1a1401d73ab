"""What one process is asked to measure, and what it answers: values that go through JSON."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gradreg_bench.timing import Spread

__all__ = ["FRAMEWORKS", "Measurement", "Result", "Task"]

FRAMEWORKS = {
    "torch": ("torch", "eager"),
    "torch-compile": ("torch", "compile"),
    "jax": ("jax", "jit"),
    "jax-fast": ("jax", "fast"),
    "tensorflow": ("tensorflow", "function"),
    "tensorflow-xla": ("tensorflow", "xla"),
}
"""What --backend takes: name -> (backend, mode)."""


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


@dataclass(frozen=True)
class Task:
    """One model in one framework, whose variants are timed in one process."""

    framework: str
    """A key of FRAMEWORKS."""
    model: str
    """A key of NETWORKS, or ``"module:factory"``."""
    batch: int
    projections: tuple[int, ...]
    patterns: tuple[str, ...]
    repeats: int
    threads: int
    clock: str = "wall"
    """A key of :data:`gradreg_bench.timing.CLOCKS`."""
    memory_of: str | None = None
    """Measure the memory of this variant, and no time."""
    regularizers: tuple[tuple[str, str], ...] = ()
    """(name, JSON of `to_dict`) of regularizers to time instead of the built-in variants."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Task":
        """From `to_dict`."""
        return cls(**{name: _tuples(each) for name, each in values.items()})


@dataclass(frozen=True)
class Measurement:
    """One variant."""

    name: str
    ratio: Spread | None
    """Of its time to the plain step's in the same round."""
    seconds: float | None
    """The median of a step."""
    limit: float | None
    """The least ratio of exact double backpropagation; None where none is known."""
    memory: int | None = None
    """Bytes at the peak of a step, beyond what is there before."""
    failed: str = ""
    """Why there are no numbers."""

    @property
    def achieved(self) -> float | None:
        """The share of the limit: limit / ratio, 1 where the step takes no longer than its arithmetic."""
        return None if self.ratio is None or self.limit is None else self.limit / self.ratio.median


@dataclass(frozen=True)
class Result:
    """All variants of a task."""

    task: Task
    first_share: float | None
    allocator: str
    measurements: tuple[Measurement, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [asdict(each) | {"share_of_limit": each.achieved} for each in self.measurements]
        for row, each in zip(rows, self.measurements, strict=True):
            row["ratio"] = None if each.ratio is None else each.ratio._asdict()
        return {
            "task": self.task.to_dict(),
            "first_layer_share": self.first_share,
            "allocator": self.allocator,
            "measurements": rows,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Result":
        """From `to_dict`."""
        rows = []
        for row in values["measurements"]:
            own = {name: each for name, each in row.items() if name != "share_of_limit"}
            rows.append(Measurement(**own | {"ratio": None if row["ratio"] is None else Spread(**row["ratio"])}))
        task = Task.from_dict(values["task"])
        return cls(task, values["first_layer_share"], values["allocator"], tuple(rows))
