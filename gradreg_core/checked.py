"""Checks of a call's arguments that need no forward pass."""

from dataclasses import replace
from typing import Any

from gradreg_core.backend import Backend
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.forward import Call
from gradreg_core.inputs import Arguments
from gradreg_core.layout import require_integer_scalar
from gradreg_core.loss_functions import outputs_first, require_keras_backend
from gradreg_core.scalars import integer_option
from gradreg_core.selection import require_selector
from gradreg_core.spec import Regularizer
from gradreg_core.structures import read_once

__all__ = ["BATCH_NORM_POLICIES", "checked"]

BATCH_NORM_POLICIES = ("error", "warn", "allow")


def checked(call: Call, model: Any, x: Any, reg: Any, batch_norm: str) -> tuple[Call, Arguments]:
    """The call, with step and seed as numbers if that costs nothing, and the input, taken apart.

    Does every check that needs no forward pass.

    Raises:
        InputError: a value does not fit.
        InputTypeError: a type does not fit.
    """
    name, ops = call.name, call.ops
    if reg is not None and not isinstance(reg, Regularizer):
        raise InputTypeError(f"{name}: reg must be a regularizer such as SpectReg(0.01), got {reg!r}.")
    if not isinstance(batch_norm, str) or batch_norm not in BATCH_NORM_POLICIES:
        raise InputError(f"{name}: batch_norm must be one of {BATCH_NORM_POLICIES}, got {batch_norm!r}.")
    if call.loss_fn is not None and not callable(call.loss_fn):
        raise InputTypeError(f"{name}: loss_fn must be a function of (outputs, y), got {call.loss_fn!r}.")
    if not callable(model):
        raise InputTypeError(
            f"{name}: model must be callable, got {type(model).__name__}. Pass the module or function itself, not what "
            f"it returned"
            + (
                "; of a saved model a signature, model.signatures['serving_default']."
                if hasattr(model, "signatures")
                else "."
            )
        )
    require_keras_backend(name, ops.name, model)
    if call.outputs is not None:
        require_selector(name, call.outputs)
    options = _checked_options(call)
    arguments = Arguments.of(ops, name, x)
    if call.step is None:
        _require_no_step(name, reg)
        options["step"] = 0
    return replace(call, **options) if options else call, arguments


def _checked_options(call: Call) -> dict[str, Any]:
    """The caller's options that have a checked form; the usual call gives none."""
    name = call.name
    options: dict[str, Any] = {}
    if call.chunk_size is not None:
        options["chunk_size"] = integer_option(name, "chunk_size", call.chunk_size, minimum=1)
    if call.class_axis is not None:
        options["class_axis"] = integer_option(name, "class_axis", call.class_axis)
    if call.ignore_index is not None:
        options["ignore_index"] = integer_option(name, "ignore_index", call.ignore_index)
    if call.loss_fn is not None:
        weighs = call.position_weight is not None or call.ignore_index is not None
        options["loss_fn"] = outputs_first(name, call.ops.name, call.loss_fn, weighs)
    if call.params is not None:
        options["params"] = read_once(call.params)  # several terms may read them
    if call.seed is not None:
        options["seed"] = _checked_seed(call.ops, name, call.seed)
    return options


def _require_no_step(name: str, reg: Regularizer | None) -> None:
    for term in () if reg is None else reg.terms:
        if term.every > 1 or callable(term.weight):
            raise InputError(
                f"{name}: {term!r} depends on the step of training; pass step=, the number of the step. Without it "
                f"every call would be step 0."
            )


def _checked_seed(ops: Backend, name: str, seed: Any) -> Any:
    """The seed as a Python int if that costs nothing, else unchanged."""
    if seed is None:
        return None
    static = ops.static_int(seed)
    if static is None and isinstance(seed, int) and not isinstance(seed, bool):
        static = seed  # of a program that is being traced
    if static is None:
        require_integer_scalar(ops, name, "seed", seed)
        return seed
    if not 0 <= static < 2**64:
        raise InputError(f"{name}: seed must be in [0, 2**64), got {static}.")
    return static
