"""Interleaved rounds, quartiles and the peak of memory. Nothing here depends on a time."""

import numpy as np
import pytest

from gradreg_bench import timing
from gradreg_bench.timing import Spread, interleaved, peak_memory, spread


@pytest.mark.slow
def test_rounds_are_interleaved_and_cycles_counted(monkeypatch):
    calls = []
    clock = iter(range(1000))
    monkeypatch.setitem(timing.CLOCKS, "wall", lambda: float(next(clock)))
    steps = {name: (lambda number, name=name: calls.append((name, number))) for name in "abc"}
    assert interleaved(steps, {"a": 1, "b": 1, "c": 4}, 5) == {"a": [1.0] * 5, "b": [1.0] * 5, "c": [0.25] * 5}
    counted = calls[6:]  # after two steps of each to warm up
    rounds = [counted[start : start + 6] for start in range(0, 30, 6)]
    assert len(counted) == 30
    for round_calls in rounds:
        assert sorted(round_calls) == [("a", 0), ("b", 0), ("c", 0), ("c", 1), ("c", 2), ("c", 3)]
    assert len({tuple(round_calls) for round_calls in rounds}) > 1


def test_spread():
    assert spread([3.0]) == Spread(3.0, 3.0, 3.0)
    assert spread([1.0, 2.0, 3.0, 4.0, 100.0]) == Spread(3.0, 2.0, 4.0)


def test_peak_memory_is_that_of_the_step():
    size = 64 * 2**20
    peak = peak_memory(lambda number: np.ones(size, np.uint8).sum())
    if peak is None:
        pytest.skip("this system does not tell a process's peak memory")
    assert 0.95 * size < peak < 1.5 * size
