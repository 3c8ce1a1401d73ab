"""Removes the effect of the C library's allocator from the comparison.

By default glibc returns freed memory to the system and faults it in again, page by page, at every step. That slows the
steps that allocate more out of proportion. So every variant is timed in a process that keeps its memory.
"""

import ctypes
import sys

__all__ = ["keep_memory", "release"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_LARGEST = 2**31 - 1


def keep_memory() -> str:
    """Tell glibc to keep freed memory and to map nothing separately; return a description of the setting."""
    function = _libc("mallopt")
    if function is not None and function(_MMAP_MAX, 0) and function(_TRIM_THRESHOLD, _LARGEST):
        return "glibc keeps freed memory (M_MMAP_MAX=0, M_TRIM_THRESHOLD=2**31-1), for all variants"
    return "the system's allocator, unchanged"


def release() -> None:
    """Return free memory to the system now, if the C library can."""
    function = _libc("malloc_trim")
    if function is not None:
        function(0)


def _libc(name: str) -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
