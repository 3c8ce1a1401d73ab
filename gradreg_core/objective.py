"""A scalar function of the input that can also be differentiated and moved along the weights of its model."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from gradreg_core.primitives import Array

__all__ = ["Gradients", "Objective", "OfInput", "Repeatable", "Scalar"]

Scalar = Callable[[Array | None], Array]
"""A function of the packed differentiable input (None if nothing in the input is) to a 0-d array."""
Gradients = tuple[Array, Sequence[Array | None], Array | None]
"""(value, gradient for each weight, gradient for the input); None if there is no path."""


class Objective(ABC):
    """A function that the pre-flight check differentiates, and compares with differences along input and weights."""

    names: Sequence[str] = ()
    """The names of the weights, for messages."""
    weights: Sequence[Array] = ()
    """The trainable floating-point arrays that the model uses, as they are now."""
    finds_weights: bool = True
    """Whether `weights` is complete, as far as the framework can tell."""

    @abstractmethod
    def gradients(self, x: Array | None, scale: float = 1.0) -> Gradients:
        """The value, and the gradients of `scale` times the value, at the current weights."""

    def gradients_once(self, x: Array | None) -> Gradients:
        """`gradients`, without work that pays off only from a second call on, as compiling. Default: `gradients`."""
        return self.gradients(x)

    @abstractmethod
    def at(self, weights: Sequence[Array], x: Array | None) -> Array:
        """The value at other weights. The model's own weights are restored afterwards, even after an error."""

    def reached(self) -> Sequence[bool]:
        """For each weight, whether the outputs have a derivative with respect to it, which the model may stop."""
        return [True] * len(self.weights)


class OfInput(Objective):
    """A function of the input alone, for backends and models whose weights are out of reach."""

    finds_weights = False

    def __init__(self, ops: Any, fn: Scalar) -> None:
        self.ops, self.fn = ops, fn

    def gradients(self, x: Array | None, scale: float = 1.0) -> Gradients:
        ops = self.ops
        if x is None:
            return self.fn(x), (), None

        def connected(point: Array) -> Array:
            value = self.fn(point)
            # The penalty of a linear model is a constant, through which there is nothing to pull back.
            nothing = ops.sum(point * 0, tuple(range(len(ops.shape(point)))))
            return ops.reshape(value + ops.astype(nothing, ops.dtype(value)), (1,))

        value, pullback = ops.vjp(connected, x)
        return ops.reshape(value, ()), (), pullback(value * 0 + scale)

    def at(self, weights: Sequence[Array], x: Array | None) -> Array:
        return self.fn(x)


class Repeatable(Objective):
    """An objective whose evaluations each run in their own context, with the same random numbers."""

    def __init__(self, inner: Objective, context: Callable[[], AbstractContextManager[None]]) -> None:
        self.inner, self.context = inner, context
        self.names, self.weights, self.finds_weights = inner.names, inner.weights, inner.finds_weights

    def gradients(self, x: Array | None, scale: float = 1.0) -> Gradients:
        with self.context():
            return self.inner.gradients(x, scale)

    def at(self, weights: Sequence[Array], x: Array | None) -> Array:
        with self.context():
            return self.inner.at(weights, x)

    def reached(self) -> Sequence[bool]:
        return self.inner.reached()
