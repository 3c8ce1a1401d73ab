"""L1: primitives that make arrays, move them and change their shapes, against NumPy."""

from typing import Any

import numpy as np

from gradreg_conformance.check import Disagreement, check
from gradreg_conformance.primitive import SHAPE, call, equal, floats, integers, seeds, widest
from gradreg_conformance.subject import Subject


def _is(call: str, result: Any, wanted: Any) -> None:
    if result != wanted or type(result) is not type(wanted):
        raise Disagreement(f"{call}: expected {wanted!r}, got {result!r}")


@check("primitives")
def arrays_are_made_and_read(subject: Subject) -> None:
    """asarray, constant, arange, int32, astype agree with NumPy; shape, dtype, values_if_free, static_int read."""
    ops, dtype, shape = subject.ops, widest(subject), SHAPE

    @subject.given(seeds)
    def _(seed):  # type: ignore[no-untyped-def]
        values = floats(seed, shape, dtype)
        array = subject.array(values, dtype)
        _is("is_array of an array", bool(ops.is_array(array)), True)
        _is("is_array of a list", bool(ops.is_array([1.0])), False)
        _is("shape", ops.shape(array), shape)
        _is("dtype", ops.dtype(array), dtype)
        equal(subject, "asarray", (values, array), values)
        equal(subject, "asarray", ([3, 1, 2], array), [3, 1, 2])
        equal(subject, "constant", (values.ravel().tolist(), dtype, array), values.ravel())
        equal(subject, "constant", ([2, -3], "int32", array), np.array([2, -3], np.int32))
        equal(subject, "arange", (5, array), np.arange(5, dtype=np.int32))
        equal(subject, "int32", (-(2**31), array), np.int32(-(2**31)))
        equal(subject, "int32", (integers(seed, shape).astype(np.int64), array), integers(seed, shape))
        equal(subject, "astype", (values, "float32"), values.astype(np.float32))
        equal(subject, "astype", (integers(seed, shape), dtype), integers(seed, shape).astype(dtype))

    @subject.given(seeds)
    def _(seed):  # type: ignore[no-untyped-def]
        # The ends of the range, and values that differ in the last place: a reader must not narrow them.
        values = floats(seed, (3, 2), dtype)
        values[0] = np.finfo(dtype).max, 1 + np.finfo(dtype).eps
        read = ops.values_if_free(subject.array(values, dtype))
        if read is not None and not (isinstance(read, np.ndarray) and np.array_equal(read, values)):
            raise Disagreement(f"values_if_free: expected a NumPy array {values!r}, got {read!r}")
        _is("static_int(7)", ops.static_int(7), 7)
        _is("static_int(numpy.int64(7))", ops.static_int(np.int64(7)), 7)
        _is("static_int(True)", ops.static_int(True), None)
        _is("static_int('7')", ops.static_int("7"), None)
        number = ops.static_int(subject.array(np.array(7), "int32"))
        if number is not None:
            _is("static_int of an int32 array", number, 7)
        nested = {"first": subject.array(values, dtype), "more": [subject.array(values[0], dtype), {}]}
        shapes = [ops.shape(leaf) for leaf in ops.tree_leaves(nested)]
        _is("the shapes of the leaves of {'first': (3, 2), 'more': [(2,), {}]}", shapes, [(3, 2), (2,)])


@check("primitives")
def shapes_are_changed(subject: Subject) -> None:
    """reshape, moveaxis, broadcast_to, concat and take do what NumPy's do, on axes counted from either end."""
    dtype, shape = widest(subject), SHAPE

    @subject.given(seeds)
    def _(seed):  # type: ignore[no-untyped-def]
        values = floats(seed, shape, dtype)
        for new in ((24,), (-1, 6), (*shape, 1)):
            equal(subject, "reshape", (values, new), values.reshape(new))
        for pair in ((-1, 1), (1, -1), (0, 2), (-1, 0)):
            equal(subject, "moveaxis", (values, *pair), np.moveaxis(values, *pair))
        single = values[:1]
        equal(subject, "broadcast_to", (single, (4, *shape[1:])), np.broadcast_to(single, (4, *shape[1:])))
        equal(subject, "broadcast_to", (values, (2, *shape)), np.broadcast_to(values, (2, *shape)))
        for axis in (0, -1):
            framework = [subject.array(part, dtype) for part in (values, 2 * values)]
            equal(subject, "concat", (framework, axis), np.concatenate([values, 2 * values], axis))
        indices = np.array([[2, 0, 0], [0, 1, 2]], np.int32)
        for array, at in ((values, indices), (values[:, 0, 0], indices), (values, indices[0])):
            equal(subject, "take", (array, at), array[at])


@check("primitives")
def results_have_the_right_dtype(subject: Subject) -> None:
    """A result is of its argument's type, in half precision too; counts and indices are int32, also when they add."""
    widths = [dtype for dtype in (widest(subject), "float16") if dtype in subject.harness.dtypes]
    n = integers(0, (2, 3))
    for dtype in widths:
        a = floats(0, (2, 3), dtype)
        positive, like = np.abs(a), subject.array(a, dtype)
        calls = [("reshape", (a, (3, 2))), ("sum", (a, 1)), ("sum", (a, (0, 1), True)), ("sqrt", (positive,))]
        calls += [(name, (a,)) for name in ("sign", "cumulative_sum", "softmax", "log_softmax", "sigmoid", "softplus")]
        calls += [("where", (like > 0, a, 0.0)), ("where", (like > 0, 1.0, a)), ("matmul", (a, a.T))]
        calls += [("constant", ([1.5], dtype, like)), ("astype", (n, dtype)), ("stop_gradient", (a,))]
        if dtype != "float16":
            calls += [("eigvalsh", (a @ a.T,))]
        for name, arguments in calls:
            _gives(subject, name, arguments, dtype)
    a = floats(0, (2, 3), widths[0])
    like = subject.array(a, widths[0])
    whole = [("argmax", (a,)), ("argsort", (a,)), ("arange", (4, like)), ("int32", (3, like)), ("sum", (n, 1))]
    whole += [("int32", (n.astype(np.int64), like)), ("bitwise_left_shift", (n, 3)), ("bitwise_right_shift", (n, 3))]
    whole += [("where", (like > 0, n, 0)), ("constant", ([2], "int32", like))]
    for name, arguments in whole:
        _gives(subject, name, arguments, "int32")


def _gives(subject: Subject, name: str, arguments: tuple[Any, ...], wanted: str) -> None:
    dtype = str(call(subject, name, *arguments).dtype)
    if dtype != wanted:
        kinds = [str(array.dtype) for array in arguments if isinstance(array, np.ndarray)]
        raise Disagreement(f"{name} of {', '.join(kinds) or 'numbers'} gives {dtype}, expected {wanted}")
