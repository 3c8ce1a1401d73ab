"""Places inside a model under JAX's transformations: an abstract pass locates them, added zeros differentiate there.

A tap inside `jax.vmap` marks the array with the batch axis. Inside `jax.jit` and `lax.scan` gradreg reaches it by
running these as plain Python, which unrolls the scan; inside `jax.checkpoint`, for example, it is refused.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gradreg_core.errors import InputError
from gradreg_core.structures import Leaves, Rebuild
from gradreg_core.taps import Mark, Places
from gradreg_jax.trees import floating_leaves, is_array
from gradreg_jax.versions import get_opaque_trace_state

__all__ = ["TracedPlaces", "located", "zeros"]

Visit = Callable[[Any], tuple[Leaves, Rebuild]]


class TracedPlaces(Places):
    """The places of a pass; those inside a function that JAX transforms separately are listed apart.

    Args:
        keys: the places.
        mark: called with each of them and its value.
        inline: run compiled functions and loops as plain Python.
    """

    def __init__(self, keys: Iterable[str], mark: Mark, inline: bool) -> None:
        super().__init__(keys, mark)
        self.inline = inline
        self.enclosed: list[str] = []
        """The names of places whose values cannot leave a transformed function."""
        self._level = get_opaque_trace_state(convention="nnx")

    @contextmanager
    def watching(self) -> Iterator["TracedPlaces"]:
        """The context of the pass, which observes taps and Flax layers."""
        linen = sys.modules.get("flax.linen")
        layers = nullcontext() if linen is None else linen.intercept_methods(self._linen)
        with self, layers, jax.disable_jit() if self.inline else nullcontext():
            yield self

    @contextmanager
    def rebased(self) -> Iterator[None]:
        """A context in which values of the program traced there may be read."""
        before, self._level = self._level, get_opaque_trace_state(convention="nnx")
        try:
            yield
        finally:
            self._level = before

    def _linen(self, call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        returned = call(*args, **kwargs)
        name = ".".join(context.module.path)
        if context.method_name != "__call__" or not self.wants(name):
            return returned
        return self.visit(name, returned, floating_leaves)

    def visit(self, name: str, value: Any, flatten: Visit | None = None) -> Any:
        if not self.wants(name) or get_opaque_trace_state(convention="nnx") == self._level:
            return super().visit(name, value, flatten)
        return self._visit_enclosed(name, value, flatten)

    def _visit_enclosed(self, name: str, value: Any, flatten: Visit | None) -> Any:
        """Visit a place inside `jax.vmap` with the batch axis in front; note places inside other transformations."""
        leaves, rebuild = ([("", value)], lambda new: new[0]) if flatten is None else flatten(value)
        if not any(type(leaf).__name__ == "BatchTracer" for _, leaf in leaves):
            self.enclosed.append(name)
            return value

        @jax.custom_batching.custom_vmap
        def outside(*arrays: Any) -> Any:
            return arrays

        @outside.def_vmap
        def run(size: int, batched: Any, *arrays: Any) -> Any:
            paths = [path for path, _ in leaves]
            whole = zip(arrays, batched, strict=True)
            arrays = tuple(array if own else jnp.broadcast_to(array, (size, *array.shape)) for array, own in whole)
            again = None if flatten is None else lambda new: (list(zip(paths, new, strict=True)), tuple)
            visited = self.visit(name, arrays[0] if again is None else arrays, again)
            return (visited,) if again is None else tuple(visited), (True,) * len(arrays)

        return rebuild(outside(*(leaf for _, leaf in leaves)))

    def taken(self) -> dict[str, Any]:
        """The values, removed from the places, because traced arrays must not remain there."""
        values, self.values = self.values, dict.fromkeys(self.values)
        return values

    def require_all(self, also: Iterable[str] = ()) -> None:
        if self.enclosed:
            name = self.enclosed[0]
            raise InputError(
                f"the place {name!r} is inside a function that JAX transforms separately (jax.checkpoint, a custom "
                f"derivative, lax.cond, lax.while_loop), which its value cannot leave. Mark an input or an "
                f"output of that function instead, or leave the transformation out."
            )
        super().require_all(also)


Located = tuple[TracedPlaces, dict[str, Any], bool]


def located(run: Callable[[TracedPlaces, Any], Any], names: list[str], x: Any) -> Located:
    """Find places by a pass that computes nothing.

    Args:
        run: the pass, given its places and x.
        names: the places.
        x: the packed input, or None.

    Returns:
        (the places, the type of each one's value, whether compiled functions and loops must run as plain Python).
    """
    for inline in (False, True):
        places, types = _abstract(run, names, x, inline)
        if not places.enclosed and len(types) == len(names):
            return places, types, inline
    return places, types, True


def _abstract(
    run: Callable[[TracedPlaces, Any], Any], names: list[str], x: Any, inline: bool
) -> tuple[TracedPlaces, dict[str, Any]]:
    kept: list[TracedPlaces] = []

    def values(x: Any) -> dict[str, Any]:
        places = TracedPlaces(names, _checked, inline)
        kept.append(places)
        run(places, x)
        return places.taken()

    try:
        types = jax.eval_shape(values, x)
    except jax.errors.ConcretizationTypeError:  # a model that reads values
        types = values(x)
    return kept[-1], types


def _checked(key: str, value: Any) -> Any:
    if not is_array(value) or not jnp.issubdtype(value.dtype, jnp.floating):
        got = str(value.dtype) if is_array(value) else type(value).__name__
        raise InputError(f"{key!r}: a place must hold an array of a floating-point type, got {got}.")
    return value


def zeros(like: Any) -> Any:
    """Zeros of the type of an array, sharding and varying mesh axes included."""
    return lax.full_like(like, 0)
