"""Elementwise functions that ports mistake for one another, by the name that a report gives them."""

import math
from collections.abc import Callable

import numpy as np

__all__ = ["FORMS", "form_named"]

_Form = Callable[[np.ndarray], np.ndarray]
_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(x / 2))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(x, 0)


def _leaky(slope: float) -> _Form:
    return lambda x: np.where(x > 0, x, slope * x)


def _elu(alpha: float) -> _Form:
    return lambda x: np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


FORMS: dict[str, _Form] = {
    "the identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "GELU in its exact (erf) form": lambda x: x * 0.5 * (1 + np.asarray(_erf(x / math.sqrt(2)), np.float64)),
    "GELU in its tanh approximation": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "GELU in its sigmoid approximation, x sigmoid(1.702 x)": lambda x: x * _sigmoid(1.702 * x),
    "silu (swish)": lambda x: x * _sigmoid(x),
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "relu6": lambda x: np.clip(x, 0, 6),
    **{f"leaky relu of slope {slope}": _leaky(slope) for slope in (0.01, 0.1, 0.2, 0.25, 0.3)},
    **{f"elu of alpha {alpha}": _elu(alpha) for alpha in (1.0, 0.1)},
    "selu": lambda x: 1.0507009873554805 * _elu(1.6732632423543772)(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "hard swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard sigmoid, relu6(x + 3) / 6": lambda x: np.clip(x + 3, 0, 6) / 6,
    "hard sigmoid, clip(0.2 x + 0.5)": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "hard tanh": lambda x: np.clip(x, -1, 1),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "squared relu": lambda x: np.maximum(x, 0) ** 2,
    "exp": np.exp,
    "softmax over the last axis": lambda x: _softmax(x, -1),
    "softmax over axis 1": lambda x: _softmax(x, 1),
    "log-softmax over the last axis": lambda x: np.log(_softmax(x, -1)),
}


def _softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """NaN for one number per sample, which has no such axis."""
    if x.ndim < 2:
        return np.full_like(x, np.nan)
    power = np.exp(x - x.max(axis, keepdims=True))
    return power / power.sum(axis, keepdims=True)


_NAMES = {
    "gelu": "GELU in its exact (erf) form",
    "silu": "silu (swish)",
    "swish": "silu (swish)",
    "linear": "the identity",
    "leaky_relu": "leaky relu of slope 0.2",
    "elu": "elu of alpha 1.0",
    "hard_silu": "hard swish",
    "hard_swish": "hard swish",
    "hard_sigmoid": "hard sigmoid, relu6(x + 3) / 6",
    "softmax": "softmax over the last axis",
    "hard_tanh": "hard tanh",
    "log_softmax": "log-softmax over the last axis",
    "exponential": "exp",
}


def form_named(name: str) -> str | None:
    """The form of that name in Keras; None if it is not known."""
    form = _NAMES.get(name, name)
    return form if form in FORMS else None
