"""Keeps a long run small: compiled programs are dropped once the process has grown by much."""

import ctypes
import gc
import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["Memory"]

_STATM = Path("/proc/self/statm")


def _megabytes() -> float:
    """The memory of this process, where the system tells it; else 0."""
    if not _STATM.exists():
        return 0.0
    return int(_STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


class Memory:
    """The memory of this process, kept within a bound where that is possible.

    Args:
        growth: megabytes that may come on top of what the process has now, or has after programs were dropped.
    """

    def __init__(self, growth: float) -> None:
        self.growth = growth
        self._limit = _megabytes() + growth

    def keep(self, release: Callable[[], None]) -> None:
        """Call `release`, which drops compiled programs, if the process has grown beyond its limit."""
        if _megabytes() <= self._limit:
            return
        release()
        gc.collect()
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)  # glibc keeps freed memory otherwise
        self._limit = max(self._limit, _megabytes() + self.growth / 2)
