"""The reference's result for a case, and how far from it rounding may take an honest computation.

The reference (:mod:`gradreg_numpy`) is float64 and has no autodiff: analytic Jacobians, complex steps. How far rounding
may go is measured, not guessed: the inputs of the case (weights, x) are moved by a tiny relative amount, and the root
mean square of the result's changes, per unit of that amount, is the condition of the case. A computation with unit
roundoff u is allowed CONSTANT * condition * u. (The median of a few moves of a single number is too often small by
chance.)

Measured over three frameworks: honest backends need 0.6 to 1.8 times condition * u where the networks are as small as
here, wrong ones 1e4 times and more; so CONSTANT = 8 separates them with room on both sides.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

import gradreg_numpy
from gradreg_conformance.cases import Case, Squared, SquaredPerPosition

__all__ = [
    "CONSTANT",
    "UNIT_ROUNDOFF",
    "Comparison",
    "Expected",
    "distance",
    "error_ratio",
    "expected_gradient",
    "expected_measures",
    "expected_value",
]

CONSTANT = 8.0
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_MOVE = 2.0**-40
"""Far above float64's roundoff, so that the change is the derivative's, and far below the distance to any kink."""
_MOVES = 8
_MOVES_OF_GRADIENTS = 3
"""Fewer, because they cost more, and have many components to average over."""


@dataclass(frozen=True)
class Expected:
    """A result as named arrays, and its condition: the absolute change, in norm, per relative change of the inputs."""

    arrays: Mapping[str, np.ndarray]
    condition: float

    @property
    def norm(self) -> float:
        """The norm of all arrays together."""
        return _norm(self.arrays)

    def allowed(self, dtype: str, multiplier: float = 1.0) -> float:
        """The absolute error, in norm, that an honest computation in `dtype` may have."""
        # Rounding the result alone costs half a unit of its norm, however small the condition is.
        return CONSTANT * multiplier * UNIT_ROUNDOFF[dtype] * max(self.condition, self.norm)


@dataclass(frozen=True)
class Comparison:
    """A backend's result beside the reference's."""

    result: Mapping[str, np.ndarray]
    expected: Expected
    allowed: float
    """The absolute error, in norm, that rounding explains."""

    @property
    def error(self) -> float:
        """The absolute error, in norm."""
        return distance(self.result, self.expected.arrays)

    @property
    def relative(self) -> float:
        """The error as a part of the norm."""
        return self.error / self.expected.norm if self.expected.norm else np.inf

    @property
    def ratio(self) -> float:
        """The error as a multiple of what rounding allows: more than 1 is wrong."""
        return error_ratio(self.error, self.allowed)


def error_ratio(error: float, allowed: float) -> float:
    """`error` as a multiple of `allowed`. Where nothing is allowed, only 0 is right."""
    ratio = error / allowed if allowed else (np.inf if error else 0.0)
    return ratio if np.isfinite(ratio) else np.inf


def _norm(arrays: Mapping[str, np.ndarray]) -> float:
    return float(sum(float((np.asarray(array) ** 2).sum()) for array in arrays.values()) ** 0.5)


def distance(result: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> float:
    """||result - wanted|| over all arrays together; NaN counts as infinite.

    Single elements and single tensors may be zero but for rounding and mean nothing by themselves.
    """
    total = sum(float(((np.asarray(result[name], np.float64) - wanted[name]) ** 2).sum()) for name in wanted)
    return float(total**0.5) if np.isfinite(total) else np.inf


def _options(case: Case) -> dict[str, Any]:
    chosen = case.options()
    chosen.pop("chunk_size", None)
    if case.data.directions is not None:
        chosen["directions"] = case.data.directions
    if case.data.target is not None:
        given = case.data.target
        chosen["target"] = gradreg_numpy.Model(case.network, given) if isinstance(given, Mapping) else given
    if case.loss != "cross_entropy":
        chosen["loss_fn"] = Squared() if case.loss == "squared" else SquaredPerPosition()
    if case.form.components is not None:
        chosen["wrt"] = case.form.components
    return chosen


def _moved(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return values * (1 + _MOVE * rng.choice([-1.0, 1.0], size=values.shape))


def measured(
    case: Case, compute: Callable[[gradreg_numpy.Model, np.ndarray], Mapping[str, np.ndarray]], moves: int = _MOVES
) -> Expected:
    """What `compute` gives for the case's model and x, and its condition."""
    data = case.data
    wanted = compute(data.model(case.network), data.x)
    changes = []
    for index in range(moves):
        rng = np.random.default_rng([case.seed, index])
        params = {path: _moved(array, rng) for path, array in data.params.items()}
        moved = compute(data.model(case.network, params), _moved(data.x, rng))
        changes.append(distance(moved, wanted) / _MOVE)
    return Expected(wanted, float(np.mean(np.square(changes)) ** 0.5))


@lru_cache(maxsize=8192)
def expected_value(case: Case, of: str = "penalty") -> Expected:
    """The penalty, the loss, their sum (``of="total"``) or the outputs (``of="outputs"``), as {"value": ...}."""
    y, options = case.data.y, _options(case)

    def compute(model: gradreg_numpy.Model, x: np.ndarray) -> dict[str, np.ndarray]:
        if of == "penalty":
            return {"value": np.asarray(gradreg_numpy.penalty(model, x, y, case.reg, **options))}
        total, parts = gradreg_numpy.loss(model, x, y, case.reg, **options)
        return {"value": np.asarray({"total": total, "loss": parts.loss, "outputs": parts.outputs}[of])}

    return measured(case, compute)


@lru_cache(maxsize=8192)
def expected_measures(case: Case) -> Expected:
    """The norms that `measure` gives for each sample: "frobenius", "spectral" and, with labels, "loss_gradient"."""
    y = case.data.y

    def compute(model: gradreg_numpy.Model, x: np.ndarray) -> dict[str, np.ndarray]:
        measures = gradreg_numpy.measure(model, x, y, class_axis=case.class_axis)._asdict()
        return {name: norms for name, norms in measures.items() if norms is not None}

    return measured(case, compute)


@lru_cache(maxsize=8192)
def expected_gradient(case: Case, of: str = "penalty") -> Expected:
    """The gradients of `of` with respect to every weight, by path, and to the input ("x")."""
    y, options = case.data.y, _options(case)

    def compute(model: gradreg_numpy.Model, x: np.ndarray) -> dict[str, np.ndarray]:
        weights, inputs = gradreg_numpy.gradient(model, x, y, case.reg, of=of, **options)
        return {**weights, "x": inputs}

    return measured(case, compute, _MOVES_OF_GRADIENTS)
