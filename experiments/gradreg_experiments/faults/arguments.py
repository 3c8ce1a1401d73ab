"""Calls with arguments of any type: they give the right value or refuse with gradreg's own error."""

import math
import random
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np

from gradreg_conformance.harness import load_harness
from gradreg_core.errors import GradregError
from gradreg_core.presets import DataGrad, FrobReg, GradientPenalty, SpectReg

B, D, M = 3, 2, 2
_RNG = np.random.default_rng(0)
X, WEIGHT = _RNG.normal(size=(B, D)).astype(np.float32), _RNG.normal(size=(D, M)).astype(np.float32)
Y = np.array([0, 1, 1], np.int32)
TOLERANCE = 1e-4
"""The tolerance for values near 1 in float32, after about ten operations on numbers up to 10."""
_MOST_ROWS = 50
_NEAR_OVERFLOW = 1e37
"""float32 overflows at 3.4e38; intermediate sums and squares overflow earlier."""


class ModelError(Exception):
    """The model's own exception."""


class Framework:
    """One backend's calls and arrays, and a linear model.

    Args:
        name: the backend's name.
    """

    def __init__(self, name: str) -> None:
        harness = load_harness(name)
        self.name, self.calls = name, harness.calls
        self.array = lambda values: harness.array(np.asarray(values), str(values.dtype), harness.devices[0])
        self.numbers = harness.numpy
        self.matrix = self.array(WEIGHT)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's prototypes and deprecated functions
            self.unusual = {"torch": _of_torch, "jax": _of_jax, "tensorflow": _of_tensorflow}[name]()
        """The framework's arrays that are not dense numbers in memory."""

    def model(self, x: Any) -> Any:
        try:
            return x @ self.matrix
        except Exception as error:  # the model handles x of another shape
            raise ModelError from error

    @staticmethod
    def broken(x: Any) -> Any:
        raise ModelError


def hostile(framework: Framework) -> list[Callable[[], Any]]:
    """Functions that create values, called each time, because an iterator can be read only once."""
    makers: list[Callable[[], Any]] = [partial(_itself, value) for value in (*_numbers(), *_objects(), *_arrays())]
    makers += [partial(framework.array, value) for value in _framework_arrays()]
    makers += [partial(_itself, value) for value in framework.unusual]
    makers += [lambda: iter([1, 2, 1]), lambda: (number for number in (1.0, 2.0, 1.0)), lambda: range(3)]
    return makers


def _numbers() -> list[Any]:
    return [
        *(True, False, 0, 1, 2, -1, 3, 2**31, 2**40, 2**63, 2**64, 10**400, -(10**400)),
        *(0.5, 1.5, -1.0, 1e-30, 1e30, 1e300, math.nan, math.inf, -math.inf, 1j),
        *(Fraction(1, 2), Fraction(-1), Decimal(2), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity")),
        *(np.float16(2), np.float32(2), np.float64(-1), np.float64("nan"), np.int8(1), np.int64(2)),
        *(np.uint64(2**64 - 1), np.bool_(True), np.complex64(1 + 1j)),
        *(np.datetime64("2020-01-01"), np.timedelta64(1)),
    ]


def _objects() -> list[Any]:
    return [
        *(None, "", "1", "a", b"a", "error", np.str_("1"), object(), object, len),
        *(lambda *args: None, lambda *args: "text"),
        *([], [1], [1, 2, 1], [1.0, 2.0, 1.0], [True, False, True], ["a", "b", "c"], [None] * 3, [[1, 2], [3]]),
        *([10**400] * 3, (), (1, 2, 0), {}, {"a": 1}, {1, 2}),
    ]


def _arrays() -> list[Any]:
    return [
        *(np.array(2), np.array(2.0), np.array(math.nan), np.array(True), np.zeros(0), np.zeros(3), np.ones(3)),
        *(-np.ones(3), np.ones(3, np.int64) * 2**40, np.ones(3, np.uint8), np.ones(3, np.complex64)),
        *(np.array([1, 2, math.nan]), np.array([None] * 3), np.array(["a"] * 3)),
        *(np.array(["2020"] * 3, "datetime64[D]"), np.ones((3, 2)), np.ones((3, 1)), np.eye(2)[[0, 1, 1]]),
        *(np.ones((0, 2)), np.zeros(3, [("a", int)]), np.ma.array([1, 2, 3], mask=[False, True, False])),
    ]


def _framework_arrays() -> list[Any]:
    return [
        *(np.float32(2), np.int32(2), np.float32(-1), np.float32("nan"), np.array(True), np.ones(3, np.float32)),
        *(np.array([1, 0, 1], np.int32), np.ones((3, 2), np.float32), -np.ones(3, np.float32)),
        np.ones(3, np.complex64),
    ]


def _of_torch() -> list[Any]:
    import torch

    x, rows = torch.tensor(X), [torch.ones(2), torch.ones(3)]
    return [
        *(x.to(torch.float8_e4m3fn), x.to(torch.bfloat16), torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)),
        *(x.to_sparse(), x.to_sparse_csr(), x.to("meta"), torch.nested.nested_tensor(rows)),
        torch.nested.nested_tensor(rows, layout=torch.jagged),
    ]


def _of_jax() -> list[Any]:
    import jax
    from jax.experimental import sparse

    x = jax.numpy.asarray(X)
    return [
        *(x.astype("float8_e4m3fn"), x.astype("bfloat16"), x.astype("int4"), sparse.BCOO.fromdense(x)),
        *(jax.random.key(0), jax.random.split(jax.random.key(0), B), jax.ShapeDtypeStruct((B, D), "float32")),
    ]


def _of_tensorflow() -> list[Any]:
    import tensorflow as tf

    x = tf.constant(X)
    return [
        *(tf.cast(x, tf.dtypes.experimental.float8_e5m2), tf.cast(x, tf.bfloat16), tf.sparse.from_dense(x)),
        *(tf.ragged.constant([[1.0], [1.0, 2.0], []]), tf.constant(["a"] * B), tf.TensorSpec((B, D))),
        *(tf.IndexedSlices(x, tf.range(B)), tf.quantization.quantize(x, -3.0, 3.0, tf.qint8).output),
    ]


def _itself(value: Any) -> Any:
    return value


OPTIONS = (
    "step", "seed", "sample_ids", "sample_weight", "position_weight", "ignore_index", "normalizer", "class_axis",
    "directions", "params", "chunk_size", "batch_norm", "outputs", "loss_fn", "target", "unknown",
)  # fmt: skip
FIELDS = ("weight", "schedule", "every", "fraction", "seed", "projections", "target")
PLACES = ("model", "x", "y", "reg")


def _plain(value: Any) -> np.ndarray | None:
    """A value as an array of float64, or None if its elements are not real numbers."""
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
        return array.astype(np.float64) if array.dtype.kind in "biuf" else None
    except Exception:  # not an array
        return None


def _means(option: str, value: Any) -> np.ndarray | None:
    """The oracle's reading of an option's value; None if a call may only refuse it."""
    array = _plain(value)
    if isinstance(value, Fraction | Decimal):
        array = np.asarray(float(value)) if value == value else None
    if option == "normalizer":
        good = array is not None and array.shape == () and 0 < array < math.inf and np.asarray(value).dtype.kind != "b"
        return array if good else None
    if option == "sample_weight":
        good = array is not None and array.shape == (B,) and bool(((array >= 0) & (array < 3e38)).all())
        return array if good else None
    return None


def expected(call: str, reg: Any, options: dict[str, Any]) -> float | None:
    """The value of a call in float64, by formula for the linear model; None if this oracle does not know it."""
    if set(options) - {"normalizer", "sample_weight", "chunk_size", "batch_norm", "params"}:
        return None
    weight = np.ones(B)
    if options.get("sample_weight") is not None:
        given = _means("sample_weight", options["sample_weight"])
        if given is None:
            return math.nan
        weight = given
    divisor: Any = weight.sum() or 1.0
    if options.get("normalizer") is not None:
        divisor = _means("normalizer", options["normalizer"])
        if divisor is None:
            return math.nan
    x, matrix = X.astype(np.float64), WEIGHT.astype(np.float64)
    z = x @ matrix
    f = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    data = -np.log(f[range(B), Y])
    of_loss = (((f - np.eye(M)[Y]) @ matrix.T) ** 2).sum(1)
    values = of_loss if isinstance(reg, DataGrad) else np.full(B, (matrix**2).sum())
    total = reg.weight * values + (data if call == "loss" else 0)
    return float((weight * total).sum() / divisor)


@dataclass
class Outcome:
    """The outcome of one call."""

    kind: str
    """"value", "refused", "model", or "fault"."""
    text: str = ""


def one_call(framework: Framework, draw: random.Random) -> Outcome:
    """A call with one or two hostile arguments."""
    makers = hostile(framework)
    call = draw.choice((*("loss", "penalty", "measure") * 3, "check"))
    chosen = draw.choice((FrobReg, DataGrad, SpectReg))
    arguments: dict[str, Any] = {
        "model": framework.model,
        "x": framework.array(X),
        "y": framework.array(Y),
        "reg": chosen(2.0),
    }
    if draw.random() < 0.02:
        arguments["model"] = framework.broken
    options: dict[str, Any] = {}
    text = f"{framework.name} {call} {chosen.__name__}"
    try:
        for _ in range(draw.choice((1, 1, 2))):
            group = draw.choice((PLACES, FIELDS, OPTIONS, OPTIONS, OPTIONS))
            name, value = draw.choice(group), draw.choice(makers)()
            text += f" {name}={value!r}"[:200]
            if group is PLACES:
                arguments[name] = value
            elif group is OPTIONS:
                options[name] = value
            else:
                arguments["reg"] = _with_field(chosen, name, value)
        if call == "measure":
            del arguments["reg"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = getattr(framework.calls, call)(*arguments.values(), **options)
    except GradregError:
        return Outcome("refused")
    except ModelError:
        return Outcome("model")
    except Exception as error:
        own = _is_own(error, arguments, options)
        return Outcome("model") if own else Outcome("fault", f"{text}: {type(error).__name__}: {str(error)[:200]}")
    return _judged(call, arguments, options, result, text, framework)


def _is_own(error: Exception, arguments: dict[str, Any], options: dict[str, Any]) -> bool:
    """Whether a hostile function, called as model, loss_fn, outputs or target, raised the exception."""
    given = [arguments["model"], *(options.get(name) for name in ("loss_fn", "outputs", "target"))]
    foreign = [value for value in given if value in (len, object)]
    return bool(foreign) and isinstance(error, TypeError)


def _with_field(chosen: Any, name: str, value: Any) -> Any:
    if name == "schedule":
        return chosen(lambda step: value)
    if name == "weight":
        return chosen(value)
    if name == "projections" and isinstance(value, int | np.integer) and value > _MOST_ROWS:
        value = _MOST_ROWS  # more are valid, and take forever
    kind = {"projections": SpectReg, "target": GradientPenalty}.get(name, chosen)
    return kind(2.0, **{name: value})


def _judged(
    call: str, arguments: dict[str, Any], options: dict[str, Any], result: Any, text: str, framework: Framework
) -> Outcome:
    plain = arguments["model"] == framework.model and _untouched(arguments)
    if call == "check" or not plain:
        return Outcome("value")
    given = {name: value for name, value in options.items() if value is not None}
    if call == "measure":
        wanted = None if given else float(np.linalg.norm(WEIGHT))
        numbers = [float(norm) for norm in framework.numbers(result.frobenius)]
    else:
        reg = arguments["reg"]
        wanted = expected(call, reg, given) if _is_known(reg) else None
        numbers = [float(framework.numbers(result[0] if call == "loss" else result))]
    wrong = [number for number in numbers if wanted is not None and not _agree(number, wanted)]
    return Outcome("fault", f"{text}: {wrong[0]}, not {wanted}") if wrong else Outcome("value")


def _is_known(reg: Any) -> bool:
    plain = isinstance(reg, FrobReg | DataGrad) and not callable(reg.weight)
    return plain and reg.every == 1 and reg.fraction == 1


def _agree(number: float, wanted: float) -> bool:
    """NaN is right for meaningless arguments, and infinity for numbers beyond float32."""
    if math.isnan(number):
        return math.isnan(wanted) or abs(wanted) >= _NEAR_OVERFLOW
    if math.isinf(number):
        return abs(wanted) >= _NEAR_OVERFLOW
    return abs(number - wanted) <= TOLERANCE * max(1.0, abs(wanted))


def _untouched(arguments: dict[str, Any]) -> bool:
    x, y = _plain(arguments["x"]), _plain(arguments["y"])
    return x is not None and y is not None and np.array_equal(x, X) and np.array_equal(y, Y)


def counted(name: str, examples: int, seed: int) -> dict[str, Any]:
    """Count a backend's calls that returned a value, were refused, or raised the model's own error; and the faults.

    Args:
        name: the backend's name.
        examples: the number of calls.
        seed: the seed of the draws.
    """
    framework, outcomes = Framework(name), Counter[str]()
    draw = random.Random(seed)  # noqa: S311 - draws of arguments, not a secret
    faults: list[str] = []
    for _ in range(examples):
        outcome = one_call(framework, draw)
        outcomes[outcome.kind] += 1
        faults += [outcome.text] if outcome.kind == "fault" else []
    return {"calls": examples, **{kind: outcomes[kind] for kind in ("value", "refused", "model")}, "failed": faults}
