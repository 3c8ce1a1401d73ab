"""The dtypes below float64, and data that all of them represent."""

import numpy as np

__all__ = ["DTYPES", "LOW", "ROUNDED", "rounded"]

LOW = {"float32": 2.0**-24, "bfloat16": 2.0**-8}
"""Dtype -> its unit roundoff."""
DTYPES = ("float64", *LOW)
ROUNDED = """\
def rounded(values):  # numbers of 8 bits, which every dtype has
    return (values.astype("float32").view("uint32") & 0xFFFF0000).view("float32")"""
"""The same function in a program."""


def rounded(values: np.ndarray) -> np.ndarray:
    """Numbers cut to bfloat16's 8 bits, in float64: on them a program differs between dtypes by rounding only."""
    bits = np.asarray(values, np.float32).view(np.uint32) & 0xFFFF0000
    return np.asarray(bits.astype(np.uint32).view(np.float32), np.float64)
