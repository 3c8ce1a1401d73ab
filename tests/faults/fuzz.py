"""Calls with arguments of any type: they give the right value or refuse with gradreg's own error.

Run it for longer than the tests do: ``python tests/faults/fuzz.py --examples 2000 --seed 1``. It prints JSON: how many
calls gave a value, how many were refused, and each call that did neither.
"""

import argparse
import json
import math
import random
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from typing import Any

import numpy as np

from gradreg_core.errors import GradregError
from gradreg_core.presets import DataGrad, FrobReg, GradientPenalty, SpectReg

FRAMEWORKS = ("torch", "jax", "tensorflow")
B, D, M = 3, 2, 2
_RNG = np.random.default_rng(0)
X, WEIGHT = _RNG.normal(size=(B, D)).astype(np.float32), _RNG.normal(size=(D, M)).astype(np.float32)
Y = np.array([0, 1, 1], np.int32)
TOLERANCE = 1e-4
"""Of values near 1 in float32, after some ten operations on numbers of a size up to 10."""
_MOST_ROWS = 50


class ModelError(Exception):
    """The model's own exception."""


@dataclass
class Framework:
    """One framework's calls and arrays."""

    name: str
    calls: Any = field(init=False)
    array: Callable[[Any], Any] = field(init=False)

    def __post_init__(self) -> None:
        self.calls = import_module(f"gradreg_{self.name}")
        if self.name == "torch":
            self.array = import_module("torch").tensor
        elif self.name == "jax":
            self.array = import_module("jax.numpy").asarray
        else:
            self.array = import_module("tensorflow").constant
        self.matrix = self.array(WEIGHT)

    def model(self, x: Any) -> Any:
        try:
            return x @ self.matrix
        except Exception as error:  # x of another shape is the model's affair
            raise ModelError from error

    @staticmethod
    def broken(x: Any) -> Any:
        raise ModelError


def hostile(framework: Framework) -> list[Callable[[], Any]]:
    """Makers of values, each made anew, because an iterator can be read but once."""
    array = framework.array
    values: list[Any] = [
        *(None, True, False, 0, 1, 2, -1, 3, 2**31, 2**40, 2**63, 2**64, 10**400, -(10**400)),
        *(0.5, 1.5, -1.0, 1e-30, 1e30, 1e300, math.nan, math.inf, -math.inf, 1j, "", "1", "a", b"a", "error"),
        *(Fraction(1, 2), Fraction(-1), Decimal(2), Decimal("NaN"), Decimal("sNaN"), Decimal("Infinity")),
        *(
            np.float16(2),
            np.float32(2),
            np.float64(-1),
            np.float64("nan"),
            np.int8(1),
            np.int64(2),
            np.uint64(2**64 - 1),
        ),
        *(np.bool_(True), np.complex64(1 + 1j), np.str_("1"), np.datetime64("2020-01-01"), np.timedelta64(1)),
        *(
            [],
            [1],
            [1, 2, 1],
            [1.0, 2.0, 1.0],
            [True, False, True],
            ["a", "b", "c"],
            [None] * 3,
            [[1, 2], [3]],
            [10**400] * 3,
        ),
        *((), (1, 2, 0), {}, {"a": 1}, {1, 2}, object(), object, len, lambda *args: None, lambda *args: "text"),
        *(
            np.array(2),
            np.array(2.0),
            np.array(math.nan),
            np.array(True),
            np.zeros(0),
            np.zeros(3),
            np.ones(3),
            -np.ones(3),
        ),
        *(np.ones(3, np.int64) * 2**40, np.ones(3, np.uint8), np.ones(3, np.complex64), np.array([1, 2, math.nan])),
        *(
            np.array([None] * 3),
            np.array(["a"] * 3),
            np.array(["2020"] * 3, "datetime64[D]"),
            np.ones((3, 2)),
            np.ones((3, 1)),
        ),
        *(np.eye(2)[[0, 1, 1]], np.ones((0, 2)), np.zeros(3, [("a", int)]), np.ma.array([1, 2, 3], mask=[0, 1, 0])),
    ]
    arrays = [np.float32(2), np.int32(2), np.float32(-1), np.float32("nan"), np.array(True), np.ones(3, np.float32)]
    arrays += [
        np.array([1, 0, 1], np.int32),
        np.ones((3, 2), np.float32),
        -np.ones(3, np.float32),
        np.ones(3, np.complex64),
    ]
    makers = [lambda value=value: value for value in values]
    makers += [lambda value=value: array(value) for value in arrays]
    makers += [lambda: iter([1, 2, 1]), lambda: (number for number in (1.0, 2.0, 1.0)), lambda: range(3)]
    return makers


OPTIONS = (
    "step", "seed", "sample_ids", "sample_weight", "position_weight", "ignore_index", "normalizer", "class_axis",
    "directions", "params", "chunk_size", "batch_norm", "outputs", "loss_fn", "target", "unknown",
)  # fmt: skip
FIELDS = ("weight", "schedule", "every", "fraction", "seed", "projections", "target")
PLACES = ("model", "x", "y", "reg")


def _plain(value: Any) -> np.ndarray | None:
    """A value as an array of float64, or None if it is none of real numbers."""
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
        return array.astype(np.float64) if array.dtype.kind in "biuf" else None
    except Exception:  # no array
        return None


def _means(option: str, value: Any) -> np.ndarray | None:
    """What a value of an option says that the oracle knows of; None where a call may only refuse it."""
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
    """The value of a call in float64, by hand for the linear model; None where this oracle does not know it."""
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
    """What came of one call."""

    kind: str
    """"value", "refused", "model", or "fault"."""
    text: str = ""


def one_call(framework: Framework, draw: random.Random) -> Outcome:
    """A call with one or two hostile arguments."""
    makers = hostile(framework)
    call, chosen = (
        draw.choice((*("loss", "penalty", "measure") * 3, "check")),
        draw.choice((FrobReg, DataGrad, SpectReg)),
    )
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
    """Whether the exception came out of a hostile function that was called as model, loss_fn, outputs or target."""
    given = [arguments["model"], *(options.get(name) for name in ("loss_fn", "outputs", "target"))]
    foreign = [value for value in given if value in (len, object)]
    return bool(foreign) and isinstance(error, TypeError)


def _with_field(chosen: Any, name: str, value: Any) -> Any:
    if name == "schedule":
        return chosen(lambda step: value)
    if name == "weight":
        return chosen(value)
    if name == "projections" and isinstance(value, int | np.integer) and value > _MOST_ROWS:
        value = _MOST_ROWS  # more are right, and take for ever
    kind = {"projections": SpectReg, "target": GradientPenalty}.get(name, chosen)
    return kind(2.0, **{name: value})


def _judged(
    call: str, arguments: dict[str, Any], options: dict[str, Any], result: Any, text: str, framework: Framework
) -> Outcome:
    if call in ("check", "measure"):
        return Outcome("value")
    value = result[0] if call == "loss" else result
    number = float(value.detach() if hasattr(value, "detach") else value)
    reg, plain = arguments["reg"], arguments["model"] == framework.model and _untouched(arguments)
    known = (
        plain
        and isinstance(reg, FrobReg | DataGrad)
        and reg.every == 1
        and reg.fraction == 1
        and not callable(reg.weight)
    )
    wanted = (
        expected(call, reg, {name: given for name, given in options.items() if given is not None}) if known else None
    )
    if wanted is not None and not math.isnan(number) and not abs(number - wanted) <= TOLERANCE * max(1.0, abs(wanted)):
        both_infinite = math.isinf(number) and abs(wanted) > 3e38
        return Outcome("value") if both_infinite else Outcome("fault", f"{text}: {number} and not {wanted}")
    if wanted is not None and math.isnan(number) and not math.isnan(wanted) and abs(wanted) < 1e37:
        return Outcome("fault", f"{text}: NaN and not {wanted}")
    return Outcome("value")


def _untouched(arguments: dict[str, Any]) -> bool:
    x, y = _plain(arguments["x"]), _plain(arguments["y"])
    return x is not None and y is not None and np.array_equal(x, X) and np.array_equal(y, Y)


def run(names: tuple[str, ...], examples: int, seed: int) -> tuple[dict[str, dict[str, int]], list[str]]:
    """(counts of outcomes by framework, what went wrong)."""
    counts: dict[str, dict[str, int]] = {}
    faults: list[str] = []
    for name in names:
        framework, draw, seen = Framework(name), random.Random(seed), Counter[str]()
        for _ in range(examples):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                outcome = one_call(framework, draw)
            seen[outcome.kind] += 1
            faults += [outcome.text] if outcome.kind == "fault" else []
        counts[name] = dict(sorted(seen.items()))
    return counts, faults


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--examples", type=int, default=1000, help="calls per framework")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--framework", choices=FRAMEWORKS, action="append")
    options = parser.parse_args()
    counts, faults = run(tuple(options.framework or FRAMEWORKS), options.examples, options.seed)
    print(json.dumps({"seed": options.seed, "calls": counts, "faults": faults}, indent=2))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
