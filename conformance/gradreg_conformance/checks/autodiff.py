"""L1: the primitives of differentiation, against derivatives by hand."""

from typing import Any

import numpy as np

from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.primitive import floats, seeds, to_numpy, widest
from gradreg_conformance.subject import Subject

_SHAPE = (2, 3)


def _close(subject: Subject, what: str, found: Any, wanted: np.ndarray, dtype: str) -> None:
    """Within the rounding of a dozen operations on numbers of moderate size."""
    numbers = to_numpy(subject, found)
    if numbers.shape != wanted.shape:
        raise Disagreement(f"{what}: expected shape {wanted.shape}, got {numbers.shape}")
    allowed = 16 * float(np.finfo(dtype).eps) * subject.harness.tolerance * (1 + np.abs(wanted).max(initial=0.0))
    ratio = float(np.abs(numbers.astype(np.float64) - wanted).max(initial=0.0)) / allowed
    subject.measured.ratio(ratio)
    if not ratio <= 1:
        raise Disagreement(f"{what}: expected {wanted!r}, got {numbers!r}")


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

        _, found = subject.harness.value_and_gradients(function, {"x": subject.array(x, dtype)}, subject.mode)
        _close(subject, "the gradient of sum(stop_gradient(x) * x + 3 sign(x))", found["x"], x, dtype)


@check("primitives")
def pullbacks_are_transposed_jacobians(subject: Subject) -> None:
    """A pullback gives J^T w at its own point, as often as it is called, of rows in their order, differentiably.

    The function is x -> (x * x) A, whose J^T w is 2 x * (A w).
    """
    ops, dtype = subject.ops, widest(subject)

    @subject.given(seeds)
    def _(seed):  # type: ignore[no-untyped-def]
        matrix, x, other = (floats(seed + k, shape, dtype) for k, shape in enumerate(((3, 2), _SHAPE, _SHAPE)))
        w, v = floats(seed + 3, (2, 2), dtype), floats(seed + 4, (2, 2), dtype)
        a, here, there = (subject.array(each, dtype) for each in (matrix, x, other))

        def fn(value: Any) -> Any:
            return ops.matmul(value * value, a)

        wide, point = matrix.astype(np.float64), x.astype(np.float64)
        value, pullback = ops.vjp(fn, here)
        _close(subject, "the value of vjp", value, (point * point) @ wide, dtype)
        later, _ = ops.vjp(fn, there)
        _close(subject, "the value of a second vjp", later, (other.astype(np.float64) ** 2) @ wide, dtype)
        later, second = ops.vjp(fn, there)
        for name, pull, at in (("its own", pullback, point), ("the second", second, other.astype(np.float64))):
            for times, cotangent in enumerate((w, v), 1):
                wanted = 2 * at * (cotangent.astype(np.float64) @ wide.T)
                found = pull(subject.array(cotangent, dtype))
                _close(
                    subject, f"call {times} of the pullback at {name} point, after a second vjp", found, wanted, dtype
                )

        rows = floats(seed + 5, (3, 2, 2), dtype)
        wanted = 2 * point * (rows.astype(np.float64) @ wide.T)
        _close(subject, "pull_rows of three rows", ops.pull_rows(pullback, subject.array(rows, dtype)), wanted, dtype)

        def function(arrays: Any) -> Any:
            pulled = ops.vjp(fn, arrays["x"])[1](arrays["w"])
            return ops.sum(pulled * pulled, (0, 1))

        arrays = {"x": subject.array(x, dtype), "w": subject.array(w, dtype)}
        _, found = subject.harness.value_and_gradients(function, arrays, subject.mode)
        back = w.astype(np.float64) @ wide.T
        pulled = 2 * point * back
        _close(subject, "d/dx of the squared norm of a pullback", found["x"], 4 * pulled * back, dtype)
        _close(subject, "d/dw of the squared norm of a pullback", found["w"], (4 * pulled * point) @ wide, dtype)

        def of_rows(arrays: Any) -> Any:
            pulled = ops.pull_rows(ops.vjp(fn, arrays["x"])[1], arrays["rows"])
            return ops.sum(pulled * pulled, (0, 1, 2))

        arrays = {"x": subject.array(x, dtype), "rows": subject.array(rows, dtype)}
        _, found = subject.harness.value_and_gradients(of_rows, arrays, subject.mode)
        back = rows.astype(np.float64) @ wide.T
        slope = (8 * point * back * back).sum(0)
        _close(subject, "d/dx of the squared norm of three rows pulled back", found["x"], slope, dtype)
        slope = (8 * point * point * back) @ wide
        _close(subject, "d/drows of the squared norm of three rows pulled back", found["rows"], slope, dtype)


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
            found = ops.cond(predicate, lambda: array * array)
            wanted = (x * x if holds else 0 * x).astype(np.float64)
            _close(subject, f"cond({holds}, branch)", found, wanted, dtype)
            if ops.dtype(found) != dtype:
                raise Disagreement(f"cond({holds}, branch): the branch gives {dtype}, cond {ops.dtype(found)}")

            def function(arrays: Any, predicate: Any = predicate) -> Any:
                return ops.cond(predicate, lambda: arrays["x"] * arrays["x"])

            _, slopes = subject.harness.value_and_gradients(function, {"x": array}, subject.mode)
            wanted = (2 * x if holds else 0 * x).astype(np.float64)
            _close(subject, f"the gradient of cond({holds}, branch)", slopes["x"], wanted, dtype)
