"""Derivatives by central differences, extrapolated to step 0, with an estimate of their own error."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

__all__ = ["ENOUGH", "Estimate", "derivative"]

FIRST_STEP = 0.25
LEVELS = 16
ENOUGH = 1e-12
"""The relative error at which no smaller step is tried."""


@dataclass(frozen=True)
class Estimate:
    """A derivative of an array-valued function of one number at 0.

    Args:
        value: f'(0).
        error: an estimate of the error of `value`, a norm.
        kinked: whether the derivatives from the left and from the right disagree: f'(0) means nothing then.
    """

    value: np.ndarray
    error: float
    kinked: bool


def derivative(function: Callable[[float], np.ndarray], rounding: float = 2.0**-52, enough: float = ENOUGH) -> Estimate:
    """f'(0) by Ridders' method: Richardson's extrapolation of (f(h) - f(-h)) / 2h over h, h/2, h/4, ...

    The entry of the tableau whose neighbours agree best is taken, and their difference estimates its error: large steps
    serve if the function is smooth or rounded to float32, small ones if a kink is near. The estimate is at least the
    error of rounding, so that agreement by chance does not count.

    Args:
        function: f.
        rounding: the relative error of a value of f.
        enough: the relative error at which no smaller step is tried.
    """
    middle = np.asarray(function(0.0), np.float64)
    size = float(np.linalg.norm(middle))
    previous: list[np.ndarray] = []
    best, error, bend = np.full(middle.shape, np.nan), np.inf, np.inf
    for level in range(LEVELS):
        h = FIRST_STEP / 2**level
        ahead, behind = (np.asarray(function(sign * h), np.float64) for sign in (1, -1))
        bend = float(np.linalg.norm(ahead - 2 * middle + behind)) / h
        row = [(ahead - behind) / (2 * h)]
        for order, coarse in enumerate(previous, 1):
            row.append(row[-1] + (row[-1] - coarse) / (4**order - 1))
            change = max(
                float(np.linalg.norm(row[-1] - row[-2])), float(np.linalg.norm(row[-1] - coarse)), rounding * size / h
            )
            if change < error:
                best, error = row[-1], change
        previous = row
        if error <= enough * max(size, float(np.linalg.norm(best))):
            break
    # The derivatives from the two sides differ by h f''(0), but at a kink by its jump over h.
    kinked = not bend <= 0.5 * (size + float(np.linalg.norm(best)))
    return Estimate(best, error, kinked)
