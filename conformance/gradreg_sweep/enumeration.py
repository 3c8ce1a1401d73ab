"""Operations from the modules of a framework: every public function that some pattern of arguments suits."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

    def codes(self, name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Calls of a function, the simplest first, with the shape of x."""
        ends = ("{call}", "{call}[0]", self.real, self.real.replace("{value}", "{call}[0]"))
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
                call = f"{name}({arguments})"
                for end in ends:
                    yield end.replace("{value}", "{call}").replace("{call}", call), shape


def enumerate_functions(
    modules: Mapping[str, ModuleType],
    patterns: Patterns,
    evaluate: Callable[[str, np.ndarray], Any],
    known: Iterable[Operation],
    excluded: Sequence[str] = (),
) -> Iterator[Operation]:
    """An operation per public function of the modules that no known operation calls.

    Args:
        modules: by the name that users write before a function's.
        patterns: of the arguments.
        evaluate: (an expression of ``h``, h) -> its value as a NumPy array.
        known: operations whose code is searched for the function's name.
        excluded: functions that are no operations, or that draw random numbers.
    """
    written = " ".join(operation.code for operation in known)
    for prefix, module in modules.items():
        for name in sorted(dir(module)):
            value = getattr(module, name, None)
            call = f"{prefix}.{name}"
            if name.startswith("_") or not callable(value) or isinstance(value, type) or call in excluded:
                continue
            if f"{call}(" in written:
                continue
            code = _suited(patterns.codes(call), evaluate)
            if code is not None:
                yield Operation(call, code[0], **code[1])


def _suited(
    codes: Iterator[tuple[str, Mapping[str, Any]]], evaluate: Callable[[str, np.ndarray], Any]
) -> tuple[str, Mapping[str, Any]] | None:
    """The first code whose value is a finite real array that depends on h."""
    for code, shape in codes:
        size = {"n": 3, "b": 2}
        h = np.tanh(np.random.default_rng(0).normal(size=eval(shape["shape"].format(**size))))  # noqa: S307 - our own
        try:
            before, after = (np.asarray(evaluate(code.format(**size), array)) for array in (h, h * 0.99))
        except Exception:  # noqa: S112 - the pattern does not suit the function
            continue
        real = before.dtype.kind == "f" or before.dtype.name == "bfloat16"
        if real and before.shape == after.shape and np.isfinite(before).all() and not np.array_equal(before, after):
            return code, shape
    return None
