"""The arguments of a call in every form that it takes them in, and the gradients of those that a caller computes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import gradreg_numpy
from gradreg_conformance import reference
from gradreg_conformance.cases import Case
from gradreg_conformance.check import check
from gradreg_conformance.strategies import POSITIONS, SINGLE_LOGIT, TINY
from gradreg_conformance.subject import Subject
from gradreg_core.portable.networks import Activation, Dense, Network
from gradreg_core.presets import ConfidencePenalty, DataGrad, SpectReg
from gradreg_core.projections import direction
from gradreg_core.spec import JacobianPenalty, Regularizer
from gradreg_numpy.oracle import COMPLEX_STEP

_BATCH = 5
_SQUARE = Network((3,), (Dense(2), Activation("tanh"), Dense(3)))
"""Whose directions fit the space of the outputs and that of the input."""
_REG = SpectReg(1.0, seed=3) + DataGrad(2.0) + ConfidencePenalty(1.0)
_WEIGHTS = ((1.0, 3.0, 0.0), (0.0, 0.0, 0.0), (2.0, 1.0, 1.0), (0.0, 4.0, 2.0), (1.0, 1.0, 3.0))
_PART = DataGrad(1.0, fraction=0.6)
_NAMED = ("sample_weight", "position_weight", "normalizer", "directions")
_STEP = 1e-3
_OF_DIFFERENCES = 1e-7
"""The error of differences with that step, with room; a gradient that is lost is off by its whole size."""

Passed = dict[str, Any]
"""Arguments of a call in place of the case's own, "y" for the labels."""


def _forms(subject: Subject) -> list[tuple[Case, Passed]]:
    """Cases, and arguments that stand for the same numbers."""

    def array(values: Any, dtype: str) -> Any:
        return subject.array(np.asarray(values), dtype)

    plain = Case(TINY, _REG, _BATCH, dtype=subject.dtype)
    weights = (1.0, 0.0, 2.0, 0.0, 3.0)
    one = replace(plain, sample_weight=weights, ids=(7, 3, 2**30, 3, 5), step=2**20 + 7, normalizer=2.5)
    one = replace(one, reg=_REG + DataGrad(1.0, fraction=0.5, seed=1))
    two = replace(plain, sample_weight=(1.0, 0.0, 1.0, 0.0, 1.0), ids=(-7, 3, -1, 300, -2), draw_seed=2**40 + 11)
    dense = replace(plain, network=POSITIONS, class_axis=1, position_weight=_WEIGHTS, normalizer=7.0)
    dense = replace(dense, reg=_REG + JacobianPenalty(1.0, projection=direction()), directions="sample")
    binary = replace(plain, network=SINGLE_LOGIT, sample_weight=weights, ids=(250, 3, 130, 0, 129), draw_seed=2**63 + 5)
    labels, truth = np.asarray(plain.data.y), np.asarray(binary.data.y).reshape(_BATCH)
    in_lists: Passed = {"sample_weight": [1, 0, 2, 0, 3], "sample_ids": list(one.ids or ()), "y": labels.tolist()}
    in_lists |= {"normalizer": array(2.5, subject.dtype), "step": np.int64(one.step)}
    in_arrays: Passed = {"sample_weight": array(np.array(two.sample_weight) > 0, "bool"), "y": labels.astype(np.int16)}
    in_arrays |= {"sample_ids": array(two.ids, "int32"), "seed": array(2**40 + 11, "int64")}
    of_positions: Passed = {"position_weight": array(_WEIGHTS, "int32"), "class_axis": -2, "normalizer": 7}
    of_positions["directions"] = array(_own_axes(dense), subject.dtype)
    # No label of 8 bits is 257, whose lower bits are those of the class 1.
    of_positions |= {"y": array(dense.data.y, "uint8"), "ignore_index": 257}
    rows = replace(dense, directions="rows")
    of_rows: Passed = {"directions": array(_own_axes(rows), subject.dtype)}
    of_bits: Passed = {"y": array(truth.astype(bool), "bool"), "sample_weight": array(weights, "int32")}
    of_bits |= {"sample_ids": array(binary.ids, "uint8"), "seed": np.uint64(2**63 + 5)}
    two = replace(two, step=2**35 + 9)
    return [(one, in_lists), (two, in_arrays), (dense, of_positions), (rows, of_rows), (binary, of_bits)]


def _own_axes(case: Case) -> np.ndarray:
    """The directions in the axes of the outputs, (..., classes, positions) in place of (..., positions * classes)."""
    given = np.asarray(case.data.directions)
    return given.reshape(*given.shape[:-1], 3, 2).swapaxes(-1, -2)


@check("values", general=True)
def arguments_in_every_form(subject: Subject) -> None:
    """Weights, numbers of samples, labels, step and seed mean the same as lists, in NumPy, and in every type."""
    for case, passed in _forms(subject):
        if subject.backend is None:  # calls of its own may take other types
            passed = {name: value for name, value in passed.items() if name == "class_axis"}
        subject.measured.examples += 1
        arrays, y = subject.arrays(case), passed.pop("y", subject.labels(case))
        total, _ = subject.harness.calls.loss(
            subject.model(case.network, arrays), arrays["x"], y, case.reg, **subject.options(case) | passed
        )
        label = f"the total with {', '.join(sorted(passed)) or 'y'} in another form"
        subject.compare(case, label, {"value": subject.numbers(total)}, reference.expected_value(case, "total"))


def _computed(subject: Subject, arrays: Any) -> Any:
    """The total of a call whose weights, labels and directions are arrays that the caller differentiates too."""
    ops, named = subject.ops, {name: arrays[name] for name in _NAMED}
    network = {path: arrays[path] for path in _SQUARE.weights()}
    total, parts = subject.harness.calls.loss(
        subject.model(_SQUARE, network),
        arrays["x"],
        ops.softmax(arrays["y"]),
        _reg(lambda step: arrays["factor"] * 1.0),
        step=1,
        **named,
    )
    del named["directions"]  # which do not go with parts of the batch
    model, y = subject.model(_SQUARE, network), ops.softmax(arrays["y"])
    part = subject.harness.calls.penalty(model, arrays["x"], y, _PART, **named)
    return total + part + ops.sum(parts.outputs * parts.outputs, (0, 1))


def _reg(schedule: Any) -> Regularizer:
    return (
        JacobianPenalty(schedule, projection=direction())
        + JacobianPenalty(1.0, projection=direction(), side="input")
        + DataGrad(2.0)
    )


def _expected(case: Case, given: Passed) -> float:
    """The same by the reference, of real numbers."""
    odds = np.exp(given["y"])
    named = {name: given[name] for name in _NAMED} | {"normalizer": float(given["normalizer"])}
    labels, reg = odds / odds.sum(-1, keepdims=True), _reg(lambda step: float(given["factor"]))
    total, parts = gradreg_numpy.loss(case.data.model(_SQUARE), given["x"], labels, reg, step=1, **named)
    del named["directions"]
    part = gradreg_numpy.penalty(case.data.model(_SQUARE), given["x"], labels, _PART, **named)
    return float(total + part + (parts.outputs**2).sum())


def _difference(function: Callable[[float], float]) -> float:
    """The derivative at 0, by central differences of fourth order: off by 1e-9 of sums of products such as these."""
    near, far = ((function(step) - function(-step)) / (2 * step) for step in (_STEP, 2 * _STEP))
    return (4 * near - far) / 3


def _allowed(subject: Subject, wanted: float) -> float:
    return max(_OF_DIFFERENCES, 1e4 * reference.UNIT_ROUNDOFF[subject.dtype]) * (1.0 + abs(wanted))


@check("gradients")
def gradients_of_what_the_caller_computes(subject: Subject) -> None:
    """Gradients flow through soft labels, all weights, directions, a schedule's weight, and the outputs returned."""
    subject.need_any_callable()
    case = Case(_SQUARE, _REG, _BATCH, dtype=subject.dtype)
    rng = np.random.default_rng(0)
    square, vector = (_BATCH, 3), (_BATCH,)
    shapes = {"y": square, "directions": square, "sample_weight": vector, "position_weight": vector}
    shapes |= {"normalizer": (), "factor": ()}
    given = {name: np.exp(rng.normal(size=shape)) for name, shape in shapes.items()} | {"x": case.data.x}
    arrays = subject.arrays(case) | {name: subject.array(values, subject.dtype) for name, values in given.items()}
    _, slopes = subject.harness.value_and_gradients(lambda free: _computed(subject, free), arrays, subject.mode)
    subject.measured.examples += 1
    for name, values in given.items():
        along = rng.normal(size=values.shape)

        def moved(step: float, name: str = name, along: Any = along) -> float:
            return _expected(case, {**given, name: given[name] + step * along})

        wanted, result = _difference(moved), float((subject.numbers(slopes[name]) * along).sum())
        subject.close(case, f"the slope along {name}", result, wanted, _allowed(subject, wanted))


@check("gradients")
def the_gradient_is_differentiated_again(subject: Subject) -> None:
    """The gradient of a penalty is differentiable itself, as products with its Hessian and meta-learning need it."""
    subject.need_any_callable()
    ops, case = subject.ops, Case(TINY, DataGrad(1.0) + SpectReg(1.0, seed=3), 2, dtype=subject.dtype)
    rng, data = np.random.default_rng(0), case.data
    v, u = rng.normal(size=(2, *data.x.shape))

    def slope(arrays: Any) -> Any:
        """The derivative of half the square of the penalty along v."""

        def penalty(x: Any) -> Any:
            value = subject.harness.calls.penalty(subject.model(TINY, arrays), x, subject.labels(case), case.reg)
            return ops.reshape(0.5 * value * value, (1,))

        _, pullback = ops.vjp(penalty, arrays["x"])
        one = ops.constant([1.0], subject.dtype, arrays["x"])
        return ops.sum(pullback(one) * subject.array(v, subject.dtype), (0, 1))

    _, slopes = subject.harness.value_and_gradients(slope, subject.arrays(case), subject.mode)
    subject.measured.examples += 1

    def moved(step: float) -> float:
        x = data.x + step * u + 1j * COMPLEX_STEP * v
        value = gradreg_numpy.penalty(data.model(TINY), x, data.y, case.reg)
        return float(np.real(value) * np.imag(value) / COMPLEX_STEP)

    wanted = _difference(moved)
    subject.close(case, "u^T H v", float((subject.numbers(slopes["x"]) * u).sum()), wanted, _allowed(subject, wanted))
