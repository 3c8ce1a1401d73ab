"""The model, the input and the loss of a case as they are passed to a call."""

from collections.abc import Callable, Mapping
from typing import Any

from gradreg_conformance.cases import Case, squared
from gradreg_conformance.forms import PLAIN, Form
from gradreg_core.backend import Backend
from gradreg_core.portable.networks import Network
from gradreg_core.taps import tap

__all__ = ["formed", "loss_function"]

Arrays = Mapping[str, Any]
Plain = Callable[[Network, Arrays], Any]
"""(network, weights and statistics) -> a model x -> outputs."""


def formed(ops: Backend, plain: Plain, case: Case, counts: Any, arrays: Arrays) -> tuple[Any, Any]:
    """The model and the input of a case whose form is not the plain one.

    Args:
        ops: the primitives that the form is made of.
        plain: makes a model of the framework's.
        case: its network and its form count.
        counts: the integers of the samples, or None.
        arrays: weights and statistics by path, and the input "x".
    """
    form, network = case.form, case.network
    body = _with_taps(plain, case, arrays) if form.taps else plain(network, arrays)
    held = counts if form.counts == "closure" else None
    if held is None:
        return _model(ops, form, network, body), form.taken_apart(ops, arrays["x"], counts)
    around = _model(ops, form, network, body)

    def model(*args: Any, **kwargs: Any) -> Any:
        return around(*args, held=held, **kwargs)

    return model, form.taken_apart(ops, arrays["x"], None)


def _model(ops: Backend, form: Form, network: Network, body: Any) -> Any:
    def model(*args: Any, held: Any = None, **kwargs: Any) -> Any:
        leaves, passed = form.arrays(args, kwargs)
        x = form.glued(ops, leaves, network.input_shape)
        counts = passed if held is None else held
        if counts is not None:
            x = x * ops.reshape(ops.astype(counts, ops.dtype(x)), (-1, *[1] * len(network.input_shape)))
        return form.returned(body(x))

    return model


def _with_taps(plain: Plain, case: Case, arrays: Arrays) -> Any:
    """The network layer by layer, with a tap behind each."""
    shapes = [shape for path, _, shape in case.network.walk() if "." not in path]
    parts = []
    for index, (layer, shape) in enumerate(zip(case.network.layers, shapes, strict=True)):
        own = {path.partition(".")[2]: path for path in arrays if path.startswith(f"{index}.")}
        parts.append(plain(Network(shape, (layer,)), {f"0.{name}": arrays[path] for name, path in own.items()}))

    def body(x: Any) -> Any:
        for index, part in enumerate(parts):
            x = tap(case.form.place(index), part(x))
        return x

    return body


def loss_function(ops: Backend | None, case: Case) -> Any:
    """The `loss_fn` of the call; without primitives that of plain outputs alone."""
    if case.loss == "squared" and case.form == PLAIN:
        return squared
    assert ops is not None

    def loss_fn(outputs: Any, y: Any) -> Any:
        values = squared(*case.form.as_one(ops, outputs, y))
        return values if case.loss == "squared" else ops.sum(values, -1)

    return loss_fn
