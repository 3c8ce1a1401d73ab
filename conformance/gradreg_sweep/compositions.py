"""The orders in which derivatives are composed: reverse and forward mode, one inside the other."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

__all__ = ["COMPOSITIONS", "FORWARD", "PENALTY", "THIRD", "Modes", "mixed"]

PENALTY = "reverse-reverse"
"""The composition behind a penalty on the gradient."""
FORWARD = "forward"
THIRD = ("reverse-forward-forward", "reverse-reverse-reverse")
"""Compositions for third derivatives."""
COMPOSITIONS = {
    PENALTY: "the gradient of ||J^T w||^2, as penalties on gradients take it",
    FORWARD: "the first derivative of <w, f> along a direction, as products J v take it",
    "forward-reverse": "the derivative of J^T w along a direction, as products with a Hessian take it",
    "reverse-forward": "the gradient of <w, J v>, as penalties on J v take it",
    "forward-forward": "the derivative of J v along a direction",
    THIRD[0]: "the gradient of the second derivative of <w, f> along v by forward mode",
    THIRD[1]: "the gradient of the second derivative of <w, f> along v by reverse mode",
}
"""Name, with the outer mode first -> the derivative."""

Function = Callable[..., Any]


class Modes(Protocol):
    """A framework's reverse and forward mode, which can be nested."""

    def reverse(self, function: Function, arrays: Sequence[Any]) -> Sequence[Any]:
        """The gradients of a scalar function with respect to each array; None where the framework returns none."""

    def forward(self, function: Function, arrays: Sequence[Any], tangents: Sequence[Any]) -> Any:
        """The derivative of a function along the tangents."""

    def inner(self, one: Any, other: Any) -> Any:
        """The sum of the products of two arrays' elements."""

    def zero(self, array: Any) -> Any:
        """Zeros of the shape of an array."""


def mixed(
    composition: str, modes: Modes, weighted: Function, arrays: Sequence[Any], directions: Sequence[Any]
) -> list[Any]:
    """The mixed derivative of a scalar function along v and each array's direction; None if there is no gradient.

    The first derivative is along the direction alone, the third along v twice. v is the direction of the first array.

    Args:
        composition: one of COMPOSITIONS, except PENALTY.
        modes: of the framework.
        weighted: <w, f>.
        arrays: x first.
        directions: one for each array.
    """
    zeros = [modes.zero(direction) for direction in directions]
    along = [[*zeros[:i], direction, *zeros[i + 1 :]] for i, direction in enumerate(directions)]

    def slope(*arrays: Any) -> Any:
        return modes.forward(weighted, arrays, along[0])

    if composition == FORWARD:
        return [modes.forward(weighted, arrays, tangents) for tangents in along]
    if composition == "forward-forward":
        return [modes.forward(slope, arrays, tangents) for tangents in along]

    def pulled(*arrays: Any) -> Any:
        return modes.inner(modes.reverse(weighted, arrays)[0], directions[0])

    if composition == "forward-reverse":
        return [modes.forward(pulled, arrays, tangents) for tangents in along]

    def bend(*arrays: Any) -> Any:
        return modes.forward(slope, arrays, along[0])

    def reverse_bend(*arrays: Any) -> Any:
        return modes.inner(modes.reverse(pulled, arrays)[0], directions[0])

    last = {THIRD[0]: bend, THIRD[1]: reverse_bend}.get(composition, slope)
    gradients = modes.reverse(last, arrays)
    pairs = zip(gradients, directions, strict=True)
    return [None if gradient is None else modes.inner(gradient, direction) for gradient, direction in pairs]
