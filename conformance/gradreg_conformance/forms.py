"""How a case puts its network to a call: nested inputs, outputs in a structure, marked places.

The portable network stays a function from one array to another. Around it a :class:`Form` takes the input from several
arrays, returns the outputs among others, and marks the output of each layer with a tap. All of it is made of the
backend's primitives.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from gradreg_core.backend import Backend
from gradreg_core.inputs import Inputs
from gradreg_core.selection import Selector
from gradreg_core.spec import JacobianTerm
from gradreg_core.terms import Regularizer, Sum

__all__ = ["CONTAINERS", "PLAIN", "RETURNS", "Answer", "Form", "shown"]

Array = Any
CONTAINERS = ("arguments", "dict", "tuple", "nested")
"""The containers of the arrays of the input."""
RETURNS = ("object", "mapping", "path", "position", "function", "pieces")
"""The containers of the outputs."""
_KEYS = ("alpha", "context", "signal")
"""In sorted order, which is that of the components; a dict has them in another."""


@dataclass
class Answer:
    """The result of a model that returns more than its logits."""

    hidden: Array
    logits: Array


def shown(value: Any) -> str:
    """The call that makes a dataclass, defaults left out."""
    chosen = [
        f"{field.name}={getattr(value, field.name)!r}"
        for field in fields(value)
        if getattr(value, field.name) != field.default
    ]
    return f"{type(value).__name__}({', '.join(chosen)})"


@dataclass(frozen=True, repr=False)
class Form:
    """How the model of a case takes its input and returns its outputs.

    Args:
        container: what the arrays of the input are in: "array" (it is one), or one of CONTAINERS, "arguments" being
            :class:`gradreg_core.Inputs`.
        leaves: the shapes of the floating-point arrays of one sample, whose components together are the network's
            input, in order; at most three.
        wrt: the arrays that are differentiated, by index; None for all. Needs "arguments".
        counts: where the integer of each sample that its input is multiplied by is: "" (there is none), "leaf", among
            the arrays, or "closure", in the model. The network begins with Dropout, whose mask it is.
        returns: "array", "vector" (B,) of one logit, or one of RETURNS: an object with `logits`, a mapping with
            `logits`, the end of a path, a position, what a function makes of it, or two pieces that count together.
        labels: "array", or "dict": in two pieces, for a loss of the caller's.
        taps: "", "each": the output of each layer is marked by its index, or "shared": all by one name.
    """

    container: str = "array"
    leaves: tuple[tuple[int, ...], ...] = ()
    wrt: tuple[int, ...] | None = None
    counts: str = ""
    returns: str = "array"
    labels: str = "array"
    taps: str = ""

    def __repr__(self) -> str:
        return shown(self)

    # --- the input --------------------------------------------------------------------------------------------------
    @property
    def _columns(self) -> list[range]:
        sizes = [math.prod(shape) for shape in self.leaves]
        return [range(*ends) for ends in pairwise([0, *accumulate(sizes)])]

    @property
    def components(self) -> np.ndarray | None:
        """The components of a sample that are differentiated, or None for all."""
        if self.wrt is None:
            return None
        return np.concatenate([np.array(self._columns[index]) for index in sorted(self.wrt)])

    def taken_apart(self, ops: Backend, x: Array, count: Array | None) -> Any:
        """The input (B, ...) as it is passed to a call, with the integers (B,) if they are among the arrays."""
        if self.container == "array":
            return x
        batch = ops.shape(x)[0]
        flat = ops.reshape(x, (batch, -1))
        leaves = [
            ops.reshape(flat[:, columns.start : columns.stop], (batch, *shape))
            for columns, shape in zip(self._columns, self.leaves, strict=True)
        ]
        return self._held(leaves, count if self.counts == "leaf" else None)

    def _held(self, leaves: Sequence[Array], count: Array | None) -> Any:
        more = {} if count is None else {"bias": count}
        if self.container == "tuple":
            return (*leaves, *more.values())
        if self.container == "dict":
            return dict(reversed([*zip(_KEYS, leaves, strict=False), *more.items()]))
        if self.container == "nested":
            return {"first": (leaves[0], [*leaves[1:]]), **more}
        return Inputs(leaves[0], tuple(leaves[1:]), None, training=False, wrt=self._paths, **more)

    @property
    def _paths(self) -> tuple[str, ...] | None:
        if self.wrt is None:
            return None
        behind = set(range(1, len(self.leaves)))
        if behind <= set(self.wrt):
            return ("1", *(["0"] if 0 in self.wrt else []))
        return tuple("0" if index == 0 else f"1.{index - 1}" for index in reversed(self.wrt))

    def arrays(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Array], Array | None]:
        """The floating-point arrays and the integers in what the model is called with."""
        if self.container == "arguments":
            return [args[0], *args[1]], kwargs.get("bias")
        (x,) = args
        if self.container == "tuple":
            return list(x[: len(self.leaves)]), x[-1] if self.counts == "leaf" else None
        if self.container == "dict":
            return [x[name] for name in _KEYS[: len(self.leaves)]], x.get("bias")
        if self.container == "nested":
            return [x["first"][0], *x["first"][1]], x.get("bias")
        return [x], None

    def glued(self, ops: Backend, leaves: Sequence[Array], shape: tuple[int, ...]) -> Array:
        """The arrays as the input (B, *shape) of the network."""
        batch = ops.shape(leaves[0])[0]
        flat = ops.concat([ops.reshape(leaf, (batch, -1)) for leaf in leaves], 1)
        return ops.reshape(flat, (batch, *shape))

    # --- the outputs ------------------------------------------------------------------------------------------------
    def returned(self, z: Array) -> Any:
        """The result of the model for the outputs z."""
        other = z * z + 1.0
        structures = {
            "array": lambda: z,
            "object": lambda: Answer(other, z),
            "mapping": lambda: {"hidden": other, "logits": z},
            "path": lambda: {"heads": [other, {"main": z}], "no samples": z[0] * 0.0},
            "position": lambda: (other, z),
            "function": lambda: {"first": z - other, "second": other},
            "pieces": lambda: {"second": z[:, 1:], "more": (other, z[:, :1])},
            "vector": lambda: z[:, 0],
        }
        return structures[self.returns]()

    @property
    def selector(self) -> Selector:
        """The `outputs` of the call."""
        selectors: dict[str, Selector] = {
            "path": "heads.1.main",
            "position": 1,
            "function": lambda returned: returned["first"] + returned["second"],
            "pieces": ["more.1", "second"],
        }
        return selectors.get(self.returns)

    # --- labels and places ------------------------------------------------------------------------------------------
    def labels_of(self, y: Array) -> Any:
        """The labels as they are passed to a call."""
        return {"rest": y[:, 1:], "more": [y[:, :1]]} if self.labels == "dict" else y

    def as_one(self, ops: Backend, outputs: Any, y: Any) -> tuple[Array, Array]:
        """Outputs and labels as a loss function gets them, each as one array."""
        z = ops.concat(list(outputs), 1) if self.returns == "pieces" else outputs
        return z, ops.concat([y["more"][0], y["rest"]], 1) if self.labels == "dict" else y

    def place(self, index: int) -> str:
        """The name of the tap behind a layer."""
        return "layer" if self.taps == "shared" else f"layer {index}"

    def named(self, reg: Regularizer) -> Regularizer:
        """The regularizer with the names of taps in place of the indices of layers, which are the reference's names."""
        if not self.taps:
            return reg
        return Sum(tuple(self._renamed(term) for term in reg.terms))

    def _renamed(self, term: Any) -> Any:
        if not isinstance(term, JacobianTerm):
            return term
        return replace(term, at=self._renamed_place(term.at), of=self._renamed_place(term.of))

    def _renamed_place(self, index: str | None) -> str | None:
        if index is None:
            return None
        return f"{self.place(int(index))}#{index}" if self.taps == "shared" else self.place(int(index))


PLAIN = Form()
"""A function from one array to another."""
