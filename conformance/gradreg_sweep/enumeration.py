"""Operations from the modules of a framework: every public function that one of the patterns of arguments fits."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from gradreg_sweep.operation import MATRICES, VECTORS, Operation

__all__ = ["Patterns", "enumerate_functions"]


@dataclass(frozen=True)
class Patterns:
    """How a framework writes the usual arguments.

    Args:
        second: a second array of the shape of ``h``, positive and dependent on it.
        definite: a positive definite matrix made of a square ``h``.
        real: a real array of the complex array {value}.
    """

    second: str
    definite: str
    real: str

    def arguments(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Arguments of a function, the simplest first, with the shape of x."""
        vectors: tuple[str, ...] = (
            "h",
            "h + 2",
            "h / 3",
            f"h, {self.second}",
            f"h + 2, {self.second}",
            f"h, {self.second}, h + 3",
        )
        vectors += ("h, 2", "h, 1, 0", "2, h + 2", "[h, h ** 2]", f"h, {self.second}, 0.3")
        matrices = (self.definite, f"{self.definite}, h", f"h, {self.definite}", "h, h ** 2")
        for shape, listed in ((VECTORS, vectors), (MATRICES, matrices)):
            for arguments in listed:
                yield arguments, shape

    @property
    def ends(self) -> tuple[str, ...]:
        """The real array made of a function's {value}."""
        return "{value}", "{value}[0]", self.real, self.real.replace("{value}", "{value}[0]")


def enumerate_functions(
    modules: Mapping[str, ModuleType],
    patterns: Patterns,
    evaluate: Callable[[str, Mapping[str, Any]], Any],
    known: Iterable[Operation],
    excluded: Mapping[str, str],
) -> Iterator[Operation]:
    """An operation per public function of the modules that no known operation calls, under one of its names.

    Args:
        modules: by the name that users write before a function's.
        patterns: of the arguments.
        evaluate: (an expression, arrays and other values by name) -> its value.
        known: operations whose code is searched for the function's name.
        excluded: the end of a function's name -> why it is not examined.
    """
    written = " ".join(operation.code for operation in known)
    listed = [
        (f"{prefix}.{name}", getattr(module, name, None))
        for prefix, module in modules.items()
        for name in sorted(dir(module))
        if not name.startswith("_")
    ]
    seen = {id(value) for name, value in listed if f"{name}(" in written}
    for name, value in listed:
        if not callable(value) or isinstance(value, type) or id(value) in seen:
            continue
        seen.add(id(value))
        reason = next((why for end, why in excluded.items() if name.rpartition(".")[2].startswith(end)), "")
        code = None if reason else _suited(name, patterns, evaluate)
        if code is not None:
            yield Operation(name, code[0], borrowed=True, **code[1])
        else:
            yield Operation(name, "", untried=reason or "no pattern of arguments fits it")


def _suited(
    name: str, patterns: Patterns, evaluate: Callable[[str, Mapping[str, Any]], Any]
) -> tuple[str, Mapping[str, Any]] | None:
    """The first call whose value is a finite real array that depends on h, and the shape of x."""
    size = {"n": 3, "b": 2}
    for arguments, shape in patterns.arguments():
        h = np.tanh(np.random.default_rng(0).normal(size=eval(shape["shape"].format(**size))))  # noqa: S307 - our own
        call = f"{name}({arguments})"
        try:
            values = [evaluate(call.format(**size), {"h": array}) for array in (h, h * 0.99)]
        except Exception:  # noqa: S112 - the pattern does not suit the function
            continue
        for end in patterns.ends:
            try:
                ended = [evaluate(end.format(value="value"), {"value": value}) for value in values]
                before, after = (np.asarray(array) if hasattr(array, "dtype") else np.zeros(()) for array in ended)
            except Exception:  # noqa: S112 - the value is of another kind
                continue
            if _real(before) and before.shape == after.shape and not np.array_equal(before, after):
                return end.replace("{value}", call), shape
    return None


def _real(array: np.ndarray) -> bool:
    return (array.dtype.kind == "f" or array.dtype.name == "bfloat16") and bool(np.isfinite(array).all())
