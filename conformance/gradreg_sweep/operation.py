"""An operation as a framework's users write it: source code with a small configuration to draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gradreg_sweep.precision import ROUNDED

__all__ = ["MATRICES", "VECTORS", "Configuration", "Operation", "Program", "Syntax", "function", "functions"]

Configuration = Mapping[str, Any]
"""The drawn values by name. Always there: "seed" of the data, and "bare": no nonlinear layer before the operation."""
VECTORS: dict[str, Any] = {"shape": "({b}, {n})", "sizes": {"b": (1, 3), "n": (2, 4)}}
MATRICES: dict[str, Any] = {"shape": "({n}, {n})", "sizes": {"n": (2, 3)}}
"""Shapes of x for :class:`Operation`."""
_LARGEST_SCALE = 20
"""The exponent of the largest scale: with a larger one, the small elements of a result would not count."""


@dataclass(frozen=True)
class Operation:
    """One operation or layer.

    Args:
        name: as the framework's users know it.
        code: an expression of ``h`` (the operation's input) and of the names in `arrays` and `setup`. Words in braces
            are filled in from the configuration.
        shape: of x, an expression such as "({b}, {n})".
        sizes: word in `shape` or elsewhere -> its least and largest value.
        options: further words -> their values, the simplest first.
        arrays: the operation's own parameters, differentiated too: name -> shape.
        setup: a statement that comes first, such as the construction of a layer named ``layer``, whose variables are
            differentiated too.
        zeros: whether the last rows of x may be exactly zero ("zero" in the configuration says how many).
        bounded: whether h must be in (-1, 1), so that the nonlinear layer always comes before.
        modes: the modes it is tried in; None for all except the slow ones.
        dtypes: mode -> the dtypes to try there, the simplest first; "float64" for modes that are not named.
        untried: why it is listed but not examined.
        borrowed: whether its arguments are listed or guessed. If the first derivative then disagrees with differences,
            the arguments are at fault (results that are not unique, symmetric arguments, rounding).
    """

    name: str
    code: str
    shape: str = "({b}, {n})"
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=lambda: {"b": (1, 3), "n": (2, 4)})
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    arrays: Mapping[str, str] = field(default_factory=dict)
    setup: str = ""
    zeros: int = 0
    bounded: bool = False
    modes: tuple[str, ...] | None = None
    dtypes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    untried: str = ""
    borrowed: bool = False

    def configurations(self, mode: str) -> st.SearchStrategy[dict[str, Any]]:
        """Configurations, which shrink to small sizes and the first options."""
        draws: dict[str, st.SearchStrategy[Any]] = {name: st.integers(*ends) for name, ends in self.sizes.items()}
        draws |= {name: st.sampled_from(values) for name, values in self.options.items()}
        draws |= {"zero": st.integers(0, self.zeros)} if self.zeros else {}
        draws |= {
            "dtype": st.sampled_from(self.dtypes.get(mode, ("float64",))),
            "bare": st.sampled_from([False] if self.bounded else [True, False]),
            "seed": st.integers(0, 9),
        }
        return st.fixed_dictionaries(draws)

    def usual(self, mode: str) -> dict[str, Any]:
        """The first configuration: the largest sizes, the first options, one row of zeros, a nonlinear layer before."""
        chosen: dict[str, Any] = {name: ends[1] for name, ends in self.sizes.items()}
        chosen |= {name: values[0] for name, values in self.options.items()}
        chosen |= {"zero": 1} if self.zeros else {}
        return chosen | {"dtype": self.dtypes.get(mode, ("float64",))[0], "bare": False, "seed": 1}

    def program(self, configuration: Configuration, syntax: "Syntax") -> "Program":
        """The program about one configuration."""
        return Program(self, configuration, syntax)

    def input_shape(self, configuration: Configuration) -> tuple[int, ...]:
        """The shape of x."""
        shape = eval(self.shape.format(**configuration), {"__builtins__": {}})  # noqa: S307 - our own tables
        return tuple(int(length) for length in shape)


def function(name: str, code: str = "", **more: Any) -> Operation:
    """An operation that is a function of one array, unless `code` says how it is called."""
    return Operation(name, code or f"{name}(h)", **more)


def functions(prefix: str, calls: Sequence[str], **more: Any) -> tuple[Operation, ...]:
    """Operations that are functions of one module: "relu" for ``prefix.relu(h)``, "pow(h, 2)" for that very call."""
    names = [f"{prefix}.{call.partition('(')[0]}" for call in calls]
    return tuple(
        function(name, f"{prefix}.{call}" if "(" in call else "", **more)
        for name, call in zip(names, calls, strict=True)
    )


@dataclass(frozen=True)
class Syntax:
    """A framework's code around an operation.

    Args:
        imports: the lines at the top, NumPy's included.
        array: an array from the expression {values} in {dtype}.
        before: the nonlinear layer, an expression of x and A.
        after: a nonlinear function of {code}, so that the cotangent that reaches the operation varies.
        weight: w from {values}, numbers of the shape of f's outputs.
        setting: a line that switches float64 on where {on} is true, for a program that runs alone, if the framework
            needs one.
        dtype: the dtype {dtype} in a program.
        same: a line that gives ``layer`` in float64 the variables that it has in {first}.
        seeded: a line that seeds the initial weights of layers.
        variable: the differentiated variable number {index} of the operation's ``layer``.
    """

    imports: str
    array: str
    before: str
    after: str
    weight: str
    setting: str = ""
    dtype: str = '"{dtype}"'
    same: str = ""
    seeded: str = ""
    variable: str = ""


@dataclass(frozen=True)
class Program:
    """The first lines of a program about one configuration: arrays, f and w, with which everything else is computed.

    f(x, A, ...) = sin(operation(tanh(x A), ...)), or sin(operation(x, ...)) where the configuration is bare. Below
    float64 the operation is divided by `scale` first.
    """

    operation: Operation
    configuration: Configuration
    syntax: Syntax

    @property
    def low(self) -> bool:
        """Whether the dtype is below float64; then the data are numbers that every dtype has."""
        return bool(self.configuration["dtype"] != "float64")

    @property
    def names(self) -> tuple[str, ...]:
        """The arguments of f, x first."""
        return ("x", *([] if self.configuration["bare"] else ["A"]), *self.operation.arrays)

    @cached_property
    def scale(self) -> int:
        """1 in float64; otherwise a power of two by which results are at most 2, so that their sine keeps its digits.

        It is 1 if the operation fails or its result is not finite or too large.
        """
        if not self.low:
            return 1
        try:
            names = self._defined(self.lines("float32", "{code}"))
            value = names["f"](*(names[name] for name in self.names))
            value = value.detach() if hasattr(value, "detach") else value
            largest = float(np.max(np.abs(np.asarray(value)), initial=0.0))
        except Exception:
            return 1
        return 2 ** math.ceil(math.log2(largest / 2)) if 2 < largest < 2.0**_LARGEST_SCALE else 1

    def source(self, dtype: str | None = None) -> str:
        """The lines, without imports; with `dtype` in place of the configuration's."""
        code = "{code}" if self.scale == 1 else f"({{code}}) / {self.scale}"
        return self.lines(dtype or self.configuration["dtype"], self.syntax.after.format(code=code))

    def lines(self, dtype: str, after: str) -> str:
        """The lines in a dtype, where f returns `after` of {code}."""
        chosen = dict(self.configuration) | {"dtype": dtype}
        shape = self.operation.input_shape(chosen)
        lines = [f"rng = np.random.default_rng({chosen['seed']})", f"x = rng.normal(size={shape})"]
        if chosen.get("zero"):
            lines.append(f"x[..., -{chosen['zero']}:, :] = 0")
        lines.append(f"x = {self._array('x', chosen)}")
        if not chosen["bare"]:
            last = shape[-1]
            lines.append(f"A = {self._array(f'rng.normal(size=({last}, {last}))', chosen)}")
        for name, size in self.operation.arrays.items():
            lines.append(f"{name} = {self._array(f'rng.normal(size={size.format(**chosen)})', chosen)}")
        if self.operation.setup:
            if "layer" in self.operation.setup and self.syntax.seeded:
                lines.append(self.syntax.seeded)
            lines += self.operation.setup.format(**chosen).split("\n")
        lines += ["", "", f"def f({', '.join(self.names)}):"]
        lines.append(f"    h = {'x' if chosen['bare'] else self.syntax.before}")
        lines.append(f"    return {after.format(code=self.operation.code.format(**chosen))}")
        values = self._drawn(f"rng.normal(size=f({', '.join(self.names)}).shape)")
        weight = self.syntax.weight.format(values=values, **chosen)
        return "\n".join([*lines, "", "", f"w = {weight}"])

    def _array(self, values: str, chosen: Configuration) -> str:
        return self.syntax.array.format(values=self._drawn(values), dtype=chosen["dtype"])

    def _drawn(self, values: str) -> str:
        return f"rounded({values})" if self.low else values

    def run(self, dtype: str | None = None) -> dict[str, Any]:
        """The names that the program defines, after it ran."""
        return self._defined(self.source(dtype))

    def _defined(self, source: str) -> dict[str, Any]:
        namespace: dict[str, Any] = {"np": np}
        text = f"{self.syntax.imports}\n{ROUNDED}\n{source}"
        exec(compile(text, f"<{self.operation.name}>", "exec"), namespace)  # noqa: S102 - our own tables
        return namespace
