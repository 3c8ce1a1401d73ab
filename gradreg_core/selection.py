"""Selects the outputs of a model that are scored and regularized."""

from collections.abc import Callable, Mapping
from typing import Any

from gradreg_core.backend import Array, Backend
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.inputs import pack
from gradreg_core.layout import FLOATING, is_floating
from gradreg_core.structures import follow

__all__ = ["Selector", "require_selector", "select", "selected_arrays"]

Selector = Callable[[Any], Any] | str | int | list[Any] | tuple[Any, ...] | None
"""A function of the model's result, a path in it, or several of these."""


def require_selector(call: str, selector: Any) -> None:
    """Refuse anything that is not a selector.

    Raises:
        InputTypeError: it is neither a callable, a path, None, nor a list of those.
    """
    parts = selector if isinstance(selector, list | tuple) and selector else [selector]
    for part in parts:
        path = isinstance(part, str | int) and not isinstance(part, bool) and part != ""
        if not (path or callable(part) or (part is None and part is selector)):
            raise InputTypeError(
                f"{call}: outputs must be a function of what the model returns, a path such as 'logits' or 0, or a "
                f"list of these, got {selector!r}."
            )


def select(ops: Backend, call: str, selector: Selector, returned: Any) -> Array:
    """The outputs (B, ...) that `selector` takes from the model's result; several are packed as (B, components).

    Raises:
        InputTypeError: the selection is not one array of floating-point outputs.
        InputError: a path leads nowhere, or several outputs have no common batch axis.
    """
    if selector is None and ops.is_array(returned) and ops.dtype(returned) in FLOATING:
        return returned
    if not isinstance(selector, list | tuple):
        return _one(ops, call, selector, returned)
    arrays = [_one(ops, call, part, returned) for part in selector]
    shapes = [ops.shape(array) for array in arrays]
    if any(not shape or shape[0] != shapes[0][0] for shape in shapes):
        raise InputError(f"{call}: several outputs count together where all have the batch axis first, got {shapes}.")
    return pack(ops, arrays)


def selected_arrays(ops: Backend, call: str, selector: Selector, returned: Any) -> list[Array]:
    """The selected outputs in their own shapes."""
    parts = selector if isinstance(selector, list | tuple) else [selector]
    return [_one(ops, call, part, returned) for part in parts]


def _one(ops: Backend, call: str, selector: Any, returned: Any) -> Array:
    output = _taken(ops, call, selector, returned)
    if ops.is_array(output) and is_floating(ops.dtype(output)):
        return output
    got = f"{type(output).__name__} of {ops.dtype(output)}" if ops.is_array(output) else type(output).__name__
    if ops.is_array(output) and ops.dtype(output).startswith("complex"):
        remedy = "Return real arrays, such as the real and imaginary parts side by side, or the magnitude."
    elif ops.is_array(output):
        remedy = "Return the outputs before they are rounded or compared."
    else:
        remedy = f"Say which output counts with outputs=, a path or a function: {_choices(ops, output).rstrip('.')}."
    raise InputTypeError(f"{call}: the model must return one array of floating-point outputs, got {got}. {remedy}")


def _taken(ops: Backend, call: str, selector: Any, returned: Any) -> Any:
    if callable(selector):
        return selector(returned)
    if selector is None:
        if ops.is_array(returned):
            return returned
        logits = returned.get("logits") if isinstance(returned, Mapping) else getattr(returned, "logits", None)
        return logits if ops.is_array(logits) else returned
    try:
        return follow(returned, selector)
    except KeyError as error:
        raise InputError(
            f"{call}: outputs={selector!r} leads nowhere: there is no {error.args[0]!r} in what the model returned. It "
            f"has {_choices(ops, returned)}."
        ) from None


def _choices(ops: Backend, returned: Any) -> str:
    """The paths of the arrays in the model's result."""
    leaves, _ = ops.flatten(returned)
    paths = [f"{path!r} {ops.shape(leaf)}" for path, leaf in leaves if path and ops.is_array(leaf)]
    return ", ".join(paths[:12]) or f"no named arrays, but {type(returned).__name__}. {ops.conversion(returned)}"
