"""Makes a warning point to the user's own line, past the frames of libraries."""

import sys
from collections.abc import Collection

__all__ = ["levels_to_caller"]

_GENERATED = "__autograph_generated_file"
"""Part of the file names of code that TensorFlow's AutoGraph generates."""


def levels_to_caller(libraries: Collection[str]) -> int:
    """The number of frames between the function that calls this one and the user's code, for `stacklevel=`.

    Args:
        libraries: packages whose frames are skipped, besides gradreg's core.
    """
    passed = {"contextlib", "gradreg_core", *libraries}
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and (
        frame.f_globals.get("__name__", "").partition(".")[0] in passed or _GENERATED in frame.f_code.co_filename
    ):
        frame, level = frame.f_back, level + 1
    return level
