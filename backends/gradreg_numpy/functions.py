"""Elementary functions for real arguments, and for the complex arguments a + ih of complex-step differentiation.

Comparisons look at the real part only. erf and log(1 + z) of a complex argument are computed to first order in h, which
is exact for steps of 1e-20 and less, which are in use here (Squire, Trapp 1998): h^2 is below roundoff.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from gradreg_core.errors import UnsupportedError

__all__ = ["Array", "erf", "log1p", "log_softmax", "numeric", "rule_for", "sigmoid", "softmax", "softplus"]

Array = npt.NDArray[Any]

_erf_real = np.vectorize(math.erf, otypes=[np.float64])


def rule_for(value: Any, rules: Mapping[type, Any]) -> Any:
    """The rule for the class of `value`.

    Raises:
        UnsupportedError: there is no rule.
    """
    if type(value) not in rules:
        raise UnsupportedError(f"gradreg_numpy: no rule for {value!r}; use the vocabulary of gradreg_core.")
    return rules[type(value)]


def numeric(value: Any) -> Array:
    """`value` as float64, or as complex128 if it is complex.

    Raises:
        TypeError, ValueError: it is not an array of numbers.
    """
    array = np.asarray(value)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64, copy=False)


def _first_order(z: Array, value: Array, derivative: Array) -> Array:
    """Return value + i h derivative for complex z = a + ih, value alone for real z."""
    return value + 1j * (np.imag(z) * derivative) if np.iscomplexobj(z) else value


def erf(z: Array) -> Array:
    """2 / sqrt(pi) * integral of exp(-t^2) from 0 to z."""
    a = np.real(z)
    return _first_order(z, _erf_real(a), 2 / math.sqrt(math.pi) * np.exp(-a * a))


def log1p(z: Array) -> Array:
    """log(1 + z), accurate for small z (NumPy's is not for complex z)."""
    a = np.real(z)
    return _first_order(z, np.log1p(a), 1 / (1 + a))


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)), without overflow."""
    positive = np.real(z) > 0
    decayed = np.exp(np.where(positive, -z, z))
    return np.asarray(np.where(positive, 1.0, decayed) / (1 + decayed))


def softplus(z: Array) -> Array:
    """log(1 + exp(z)), without overflow."""
    positive = np.real(z) > 0
    return np.where(positive, z, 0.0) + log1p(np.exp(np.where(positive, -z, z)))


def _shifted(z: Array) -> Array:
    return np.asarray(z - np.real(z).max(axis=-1, keepdims=True))


def softmax(z: Array) -> Array:
    """exp(z_k) / sum_j exp(z_j) over the last axis, without overflow."""
    powers = np.exp(_shifted(z))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def log_softmax(z: Array) -> Array:
    """z_k - log(sum_j exp(z_j)) over the last axis, without overflow."""
    shifted = _shifted(z)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
