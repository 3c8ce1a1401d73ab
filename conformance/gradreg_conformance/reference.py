"""The reference's result for a case, and how far from it rounding may take an honest computation.

The reference (:mod:`gradreg_numpy`) is float64 and has no autodiff: analytic Jacobians, complex steps. How far rounding
may go is measured, not guessed: the inputs of the case (weights, x) and what a computation rounds on its way
(:mod:`gradreg_conformance.rounding`) are moved by a tiny amount, and the root mean square of the result's changes, per
unit of that amount, is the condition of the case. A computation with unit roundoff u is allowed CONSTANT * condition *
u. (The median of a few moves of a single number is too often small by chance.)

Measured over three frameworks: honest backends need 0.6 to 1.8 times condition * u where the networks are as small as
here, wrong ones 1e4 times and more; so CONSTANT = 8 separates them with room on both sides.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

import gradreg_numpy
from gradreg_conformance.cases import Case, Squared, SquaredPerPosition
from gradreg_conformance.rounding import moved, moved_model
from gradreg_core.spec import JacobianPenalty
from gradreg_numpy.oracle import COMPLEX_STEP

__all__ = [
    "CONSTANT",
    "UNIT_ROUNDOFF",
    "Comparison",
    "Expected",
    "distance",
    "error_ratio",
    "expected_estimates",
    "expected_gradient",
    "expected_measures",
    "expected_slopes",
    "expected_value",
    "slopes_of",
    "weighted_parts",
]

CONSTANT = 8.0
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
_MOVE = 2.0**-40
"""Far above float64's roundoff, so that the change is the derivative's, and far below the distance to any kink."""
_MOVES = 8
_MOVES_OF_SLOPES = 3
"""Of each direction."""
_DIRECTIONS, _DIRECTIONS_OF_MANY = 4, 2
"""Random ones, along which all gradients are compared where there are many: a wrong one is wrong along each."""
_MANY = 100
"""Numbers in the input or the outputs of a case that costs much."""


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


def _moved_case(case: Case, *seed: int) -> tuple[gradreg_numpy.Model, np.ndarray]:
    """The model and x, moved as `seed` says."""
    own = (case.seed, *seed)
    model = moved_model(case.data.model(case.network), _MOVE, *own)
    return model, moved(case.data.x, _MOVE, np.random.default_rng([*own, 1]))


def measured(case: Case, compute: Callable[[gradreg_numpy.Model, np.ndarray], Mapping[str, np.ndarray]]) -> Expected:
    """The result of `compute` for the case's model and x, and its condition."""
    data = case.data
    wanted = compute(data.model(case.network), data.x)
    changes = []
    for index in range(_MOVES):
        changes.append(distance(compute(*_moved_case(case, index)), wanted) / _MOVE)
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
    names = ("position_weight", "ignore_index", "class_axis", "loss_fn", "wrt")
    options = {name: value for name, value in _options(case).items() if name in names}

    def compute(model: gradreg_numpy.Model, x: np.ndarray) -> dict[str, np.ndarray]:
        measures = gradreg_numpy.measure(model, x, y, **options)._asdict()
        return {name: norms for name, norms in measures.items() if norms is not None}

    return measured(case, compute)


@lru_cache(maxsize=8192)
def expected_estimates(case: Case, frobenius: JacobianPenalty, spectral: JacobianPenalty) -> Expected:
    """The estimates of `measure` along random directions: two penalties of each sample by itself."""
    y, options = case.data.y, _options(case)
    size = len(case.data.x)

    def compute(model: gradreg_numpy.Model, x: np.ndarray) -> dict[str, np.ndarray]:
        norms = {}
        for name, reg in (("frobenius", frobenius), ("spectral", spectral)):
            alone = [np.eye(size)[index] for index in range(size)]
            norms[name] = np.array(
                [
                    gradreg_numpy.penalty(model, x, y, reg, **options | {"sample_weight": one, "normalizer": None})
                    for one in alone
                ]
            )
        return norms

    return measured(case, compute)


@lru_cache(maxsize=8192)
def expected_gradient(case: Case, of: str = "penalty") -> Expected:
    """The gradients of `of` with respect to every weight, by path, and to the input ("x").

    Their condition is that of the slopes along a few random directions: the gradients of a moved case cost too much.
    """
    data = case.data
    weights, x = gradreg_numpy.gradient(data.model(case.network), data.x, data.y, case.reg, of=of, **_options(case))
    slopes = expected_slopes(case, of)["slopes"]
    return Expected({**weights, "x": x}, slopes.condition / len(slopes.arrays["slopes"]) ** 0.5)


def weighted_parts(total: Any, parts: Any) -> Any:
    """2 total + 3 loss + 5 penalty_0 + 6 penalty_1 + ...: one number that is wrong where any of them is."""
    return 2.0 * total + 3.0 * parts.loss + sum((5.0 + index) * one for index, one in enumerate(parts.penalty))


def _directions(case: Case) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng([case.seed, 2**20])
    data, names = case.data, case.network.weights()
    arrays = {**{path: data.params[path] for path in names}, "x": data.x}
    many = max(data.x.size, len(data.x) * math.prod(case.network.output_shape)) > _MANY
    count = _DIRECTIONS_OF_MANY if many else _DIRECTIONS
    return [{name: rng.normal(size=array.shape) for name, array in arrays.items()} for _ in range(count)]


def slopes_of(case: Case, gradients: Mapping[str, np.ndarray]) -> np.ndarray:
    """The derivatives along the directions of :func:`expected_slopes`, from gradients by name."""
    slopes = [sum((gradients[name] * along[name]).sum() for name in along) for along in _directions(case)]
    return np.array(slopes, np.float64)


@lru_cache(maxsize=8192)
def expected_slopes(case: Case, of: str) -> Mapping[str, Expected]:
    """The "value" of `of`, and its derivatives, "slopes", along a few random directions of all weights and the input.

    Each costs one complex step, however many numbers there are. `of` is as in `Subject.function`.
    """
    data, options = case.data, _options(case)

    def stepped(model: gradreg_numpy.Model, x: np.ndarray, along: Mapping[str, np.ndarray]) -> np.ndarray:
        """The value and its derivative along one direction."""
        step = {path: 1j * COMPLEX_STEP * array for path, array in along.items()}
        params = {path: array + step.get(path, 0.0) for path, array in model.params.items()}
        model = replace(model, params=params)
        if of == "penalty":
            result = gradreg_numpy.penalty(model, x + step["x"], data.y, case.reg, **options)
        else:
            total, parts = gradreg_numpy.loss(model, x + step["x"], data.y, case.reg, **options)
            result = total if of == "total" else weighted_parts(total, parts)
        return np.array([np.real(result), np.imag(result) / COMPLEX_STEP])

    base, changes = [], []
    for index, along in enumerate(_directions(case)):
        base.append(stepped(data.model(case.network), data.x, along))
        for move in range(_MOVES_OF_SLOPES):
            changes.append((stepped(*_moved_case(case, index, move), along) - base[-1]) / _MOVE)
    values, slopes = np.transpose(base)
    of_value, of_slopes = np.mean(np.square(changes), axis=0) ** 0.5
    return {
        "value": Expected({"value": values[0]}, float(of_value)),
        "slopes": Expected({"slopes": slopes}, float(of_slopes * len(slopes) ** 0.5)),
    }
