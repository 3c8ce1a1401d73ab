"""L1: the primitives of differentiation, against derivatives that are written out."""

from typing import Any

import numpy as np

from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.primitive import floats, seeds, to_numpy, widest
from gradreg_conformance.reference import error_ratio
from gradreg_conformance.subject import Subject

_SHAPE = (2, 3)


def _close(subject: Subject, label: str, result: Any, wanted: np.ndarray, dtype: str) -> None:
    """Within the rounding of a dozen operations on numbers of moderate size."""
    numbers = to_numpy(subject, result)
    if numbers.shape != wanted.shape:
        raise Disagreement(f"{label}: expected shape {wanted.shape}, got {numbers.shape}")
    allowed = 16 * float(np.finfo(dtype).eps) * subject.harness.tolerance * (1 + np.abs(wanted).max(initial=0.0))
    ratio = error_ratio(float(np.abs(numbers.astype(np.float64) - wanted).max(initial=0.0)), allowed)
    subject.measured.ratio(ratio)
    if not ratio <= 1:
        raise Disagreement(f"{label}: expected {wanted!r}, got {numbers!r}")


@check("primitives")
def constants_carry_no_gradient(subject: Subject) -> None:
    """stop_gradient makes a constant, and sign is one."""
    ops, dtype = subject.ops, widest(subject)

    @subject.given(seeds)
    def _(seed):  # type: ignore[no-untyped-def]
        x = floats(seed, _SHAPE, dtype)

        def function(arrays: Any) -> Any:
            value = arrays["x"]
            return ops.sum(ops.stop_gradient(value) * value + 3.0 * ops.sign(value), (0, 1))

        _, slopes = subject.harness.value_and_gradients(function, {"x": subject.array(x, dtype)}, subject.mode)
        _close(subject, "the gradient of sum(stop_gradient(x) * x + 3 sign(x))", slopes["x"], x, dtype)


@check("primitives")
def pullbacks_are_transposed_jacobians(subject: Subject) -> None:
    """A pullback gives J^T w at its own point, as often as it is called, of rows in their order, differentiably.

    The function is x -> (x * x) A, whose J^T w is 2 x * (A w).
    """
    ops, dtype = subject.ops, widest(subject)

    @subject.given(seeds)
    def _(seed):  # type: ignore[no-untyped-def]
        shapes = ((3, 2), _SHAPE, _SHAPE, (2, 2), (2, 2), (3, 2, 2))
        given = [floats(seed + index, shape, dtype) for index, shape in enumerate(shapes)]
        a, here, there, *framework = (subject.array(array, dtype) for array in given)
        matrix, point, other, *cotangents = (array.astype(np.float64) for array in given)

        def fn(value: Any) -> Any:
            return ops.matmul(value * value, a)

        value, pullback = ops.vjp(fn, here)
        _close(subject, "the value of vjp", value, (point * point) @ matrix, dtype)
        ops.vjp(fn, there)
        later, second = ops.vjp(fn, there)
        _close(subject, "the value of a later vjp", later, (other * other) @ matrix, dtype)
        for name, pull, at in (("its own", pullback, point), ("the second", second, other)):
            for times in (0, 1):
                label = f"call {times + 1} of the pullback at {name} point, after a second vjp"
                _close(subject, label, pull(framework[times]), 2 * at * (cotangents[times] @ matrix.T), dtype)
        _close(
            subject, "pull_rows", ops.pull_rows(pullback, framework[2]), 2 * point * (cotangents[2] @ matrix.T), dtype
        )

        for name, pull, index in (("pullback(w)", lambda pullback, w: pullback(w), 0), ("pull_rows", ops.pull_rows, 2)):
            rows = cotangents[index]

            def function(arrays: Any, pull: Any = pull, axes: Any = tuple(range(rows.ndim))) -> Any:
                pulled = pull(ops.vjp(fn, arrays["x"])[1], arrays["w"])
                return ops.sum(pulled * pulled, axes)

            arrays = {"x": here, "w": framework[index]}
            _, slopes = subject.harness.value_and_gradients(function, arrays, subject.mode)
            back = rows @ matrix.T
            wanted = {
                "x": (8 * point * back * back).reshape(-1, *_SHAPE).sum(0),
                "w": (8 * point * point * back) @ matrix,
            }
            for variable, slope in wanted.items():
                _close(subject, f"d/d{variable} of the squared norm of {name}", slopes[variable], slope, dtype)


@check("primitives")
def a_branch_not_taken_is_zero(subject: Subject) -> None:
    """A cond gives the value of its branch where the predicate holds, and else zeros of the same shape and dtype."""
    ops, dtype = subject.ops, widest(subject)

    @subject.given(seeds)
    def _(seed):  # type: ignore[no-untyped-def]
        x = floats(seed, (), dtype)
        array = subject.array(x, dtype)
        for holds in (True, False):
            predicate = subject.array(np.array(int(holds)), "int32") == 1
            result = ops.cond(predicate, lambda: array * array)
            wanted = (x * x if holds else 0 * x).astype(np.float64)
            _close(subject, f"cond({holds}, branch)", result, wanted, dtype)
            if ops.dtype(result) != dtype:
                raise Disagreement(f"cond({holds}, branch): the branch gives {dtype}, cond {ops.dtype(result)}")

            def function(arrays: Any, predicate: Any = predicate) -> Any:
                return ops.cond(predicate, lambda: arrays["x"] * arrays["x"])

            _, slopes = subject.harness.value_and_gradients(function, {"x": array}, subject.mode)
            wanted = (2 * x if holds else 0 * x).astype(np.float64)
            _close(subject, f"the gradient of cond({holds}, branch)", slopes["x"], wanted, dtype)
