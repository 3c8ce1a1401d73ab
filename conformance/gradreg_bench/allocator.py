"""Takes the C library's allocator out of the comparison.

By default glibc returns freed memory to the system and faults it in again, page by page, at every step. That slows the
steps that allocate more out of proportion. Every variant is timed in a process that keeps its memory.
"""

import ctypes
import sys

__all__ = ["keep_memory", "release"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # malloc.h
_LARGEST = 2**31 - 1


def keep_memory() -> str:
    """Tell glibc to keep what is freed and to map nothing separately; returns what was done, in words."""
    function = _libc("mallopt")
    if function is not None and function(_MMAP_MAX, 0) and function(_TRIM_THRESHOLD, _LARGEST):
        return "glibc keeps freed memory (M_MMAP_MAX=0, M_TRIM_THRESHOLD=2**31-1), for every variant alike"
    return "the system's allocator as it is"


def release() -> None:
    """Return free memory to the system now, where the C library can."""
    function = _libc("malloc_trim")
    if function is not None:
        function(0)


def _libc(name: str) -> "ctypes._NamedFuncPointer | None":
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)
