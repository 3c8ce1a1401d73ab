"""Places inside a model, by taps and by the names of Keras layers, watched by a tape."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from gradreg_core import structures
from gradreg_core.errors import InputError
from gradreg_core.structures import Leaves, Rebuild
from gradreg_core.taps import Places
from gradreg_tensorflow.model.layer_calls import layer_calls
from gradreg_tensorflow.replace import functions_inlined, replaced

__all__ = ["WatchedPlaces", "watched_places"]


class WatchedPlaces(Places):
    """The places of one pass.

    Args:
        keys: the places.
        at: the places to differentiate with respect to.
        watch: the `watch` method of a tape.
    """

    def __init__(self, keys: Sequence[str], at: Sequence[str], watch: Callable[[tf.Tensor], None]) -> None:
        super().__init__(keys, self._watched)
        self.at, self.watch, self.graph = frozenset(at), watch, _graph()
        self.known: list[str] = []
        """The names of the Keras layers called."""

    def _watched(self, key: str, value: Any) -> tf.Tensor:
        if not tf.is_tensor(value) or not value.dtype.is_floating:
            got = value.dtype.name if tf.is_tensor(value) else type(value).__name__
            raise InputError(f"{key!r}: a place must hold a tensor of a floating-point type, got {got}.")
        if _graph() is not self.graph:
            raise InputError(
                f"{key!r}: the place is inside a branch, a loop or an RNN's step (tf.cond, tf.while_loop, "
                f"tf.map_fn), where each iteration has its own value. Name a layer around it, or put the tap outside."
            )
        own = tf.identity(value)  # to distinguish it from the same tensor elsewhere
        if key in self.at:
            self.watch(own)
        return own


def _graph() -> Any:
    return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()


@contextmanager
def watched_places(
    keys: Sequence[str], at: Sequence[str], watch: Callable[[tf.Tensor], None]
) -> Iterator[WatchedPlaces]:
    """Yield the taps and Keras layers called `keys` in the forward pass inside; arguments: see :class:`WatchedPlaces`.

    A layer is known by its name, or by its path if names repeat. Inside, the model's tf.functions run as plain
    functions, because the layers inside a traced function cannot be observed.
    """

    def passed(layer: Any, output: Any) -> Any:
        names = dict.fromkeys((layer.name, getattr(layer, "path", layer.name) or layer.name))
        places.known.extend(list(names)[:1])
        for name in names:
            if places.wants(name):
                output = _visited(places, name, output)
        return output

    places = WatchedPlaces(keys, at, watch)
    if not keys:
        yield places
        return
    with places, functions_inlined(), layer_calls(after=passed), replaced("places", []):
        yield places


def _visited(places: Places, name: str, output: Any) -> Any:
    try:
        return places.visit(name, output, _floating_leaves)
    except InputError as error:
        error._keras_call_info_injected = True  # type: ignore[attr-defined] # or Keras would rewrite the message
        raise


def _floating_leaves(output: Any) -> tuple[Leaves, Rebuild]:
    """The floating-point tensors in a layer's output."""
    leaves, rebuild = structures.flatten(output, tf.is_tensor)
    return structures.restricted(leaves, rebuild, lambda leaf: tf.is_tensor(leaf) and leaf.dtype.is_floating)
