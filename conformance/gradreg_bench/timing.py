"""Times steps side by side, and measures a step's memory."""

import gc
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from gradreg_bench.allocator import release

__all__ = ["CLOCKS", "Spread", "interleaved", "peak_memory", "spread"]

Step = Callable[[int], None]
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_WARM_UP = 2
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""The wall clock, or the processor time of the process, which depends less on other processes."""


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float


def spread(values: list[float]) -> Spread:
    """Median and quartiles; all three equal a single value."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high)


def interleaved(
    steps: Mapping[str, Step], cycles: Mapping[str, int], repeats: int, clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds per step of each variant in each round; within a round all variants run once, in a random order.

    Args:
        steps: name -> a call that takes the step's number and returns when the step is done.
        cycles: name -> the number of consecutive steps in one measurement.
        repeats: the number of measured rounds, after two warm-up steps of each variant.
        clock: a key of CLOCKS.
    """
    now = CLOCKS[clock]
    order, shuffle = list(steps), random.Random(0)  # noqa: S311 - an order, not a secret
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for name in order:
        for number in range(_WARM_UP):
            steps[name](number)
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            shuffle.shuffle(order)
            for name in order:
                start = now()
                for number in range(cycles[name]):
                    steps[name](number)
                seconds[name].append((now() - start) / cycles[name])
            gc.collect()
    finally:
        gc.enable()
    return seconds


def peak_memory(step: Step) -> int | None:
    """The peak memory of a step above the memory before it, in bytes; None if unknown.

    The process must be fresh. The peak is reset after the step has run (and compiled) once.
    """
    step(0)
    step(0)
    gc.collect()
    release()
    before = _status("VmRSS")
    try:
        _CLEAR.write_text("5")
    except OSError:
        return None
    step(0)
    after = _status("VmHWM")
    return None if before is None or after is None else max(0, after - before)


def _status(name: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    kibibytes = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), None)
    return None if kibibytes is None else 1024 * int(kibibytes)
