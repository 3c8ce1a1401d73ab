"""Activations by the names of the Keras layers that give them."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from gradreg_core.errors import InputError
from gradreg_tensorflow.model.layer_calls import layer_calls

__all__ = ["named_outputs"]


@contextmanager
def named_outputs(names: Sequence[str], watch: Callable[[tf.Tensor], None]) -> Iterator[dict[str, tf.Tensor]]:
    """The outputs of the Keras layers called `names` in the forward pass inside, each passed to `watch` as it comes.

    Raises:
        InputError: a layer is not called, or more than once, or does not return one tensor of floats.
    """
    outputs: dict[str, tf.Tensor] = {}
    called: list[str] = []

    def keep(layer: Any, output: Any) -> None:
        name = layer.name
        called.append(name)
        if name not in names:
            return
        if name in outputs:
            raise InputError(f"at={name!r}: the layer is called more than once in a forward pass.")
        if not tf.is_tensor(output) or not output.dtype.is_floating:
            raise InputError(f"at={name!r}: the layer's output is not a differentiable tensor.")
        watch(output)
        outputs[name] = output

    if "keras" not in sys.modules:
        raise InputError(f"at={names[0]!r}: only Keras layers have names, and Keras is not in use.")
    with layer_calls(after=keep):
        yield outputs
    missing = [name for name in names if name not in outputs]
    if missing:
        known = ", ".join(dict.fromkeys(called))
        raise InputError(
            f"at={missing[0]!r}: no layer of that name is called in the forward pass. The names there are: {known}."
        )
