"""One forward pass: the outputs in one layout, and the pullbacks to whatever is differentiated."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

from gradreg_core.backend import Array, Backend, Pullback
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.layout import Layout, Target, is_floating, prepare_target, widened

__all__ = ["Call", "Forward", "forward_pass", "make_forward", "require_floating"]


@dataclass(frozen=True)
class Call:
    """The arguments of one call that do not depend on the term; :class:`gradreg_core.calls.Calls` describes them."""

    ops: Backend
    name: str
    step: Any = 0
    seed: Any = None
    loss_fn: Callable[[Array, Any], Array] | None = None
    sample_ids: Any = None
    sample_weight: Any = None
    normalizer: Any = None
    class_axis: int | None = None
    directions: Any = None
    params: Any = None
    chunk_size: int | None = None

    def seed_of(self, term: Any) -> Any:
        """The seed of a term's draws: the call's, if it has one."""
        return term.seed if self.seed is None else self.seed

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the call, for another call with the same."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: value for name, value in values.items() if name not in ("ops", "name")}


@dataclass(frozen=True)
class Forward:
    """One forward pass over a batch or a part of it."""

    call: Call
    y: Any
    outputs: Array
    layout: Layout
    logits: Array
    """(B, positions, classes), in float32 or better."""
    pullbacks: dict[str | None, Pullback]
    """The pullback to each named activation, and to the input (None)."""
    sample_ids: Array | None
    """int32 (B,), or None for 0..B-1."""
    model: Any = None
    """For the terms that pass through the model again."""
    x: Any = None
    """The input of the pass."""
    pushed: Any = None
    """The first row of an input-side term that shared the pass, as (term, array)."""
    _cache: dict[str, Any] = field(default_factory=dict)

    def target(self, asker: str) -> Target:
        """The labels as a distribution, prepared once; `asker` needs them, for messages."""
        if "target" not in self._cache:
            call = self.call
            self._cache["target"] = prepare_target(call.ops, call.name, self.y, self.layout, self.logits, asker)
        target: Target = self._cache["target"]
        return target

    def probabilities(self, asker: str) -> Array:
        """The softmax f of z, or the logistic function of a single logit; `asker` needs them, for messages."""
        self.layout.require_classes(self.call.name, asker)
        if "f" not in self._cache:
            ops = self.call.ops
            single = self.layout.canonical[2] == 1
            self._cache["f"] = ops.sigmoid(self.logits) if single else ops.softmax(self.logits)
        return self._cache["f"]


def require_floating(call: Call, x: Array) -> None:
    """Refuse an input that has no derivative.

    Raises:
        InputTypeError: x is of integers.
    """
    if not is_floating(call.ops.dtype(x)):
        raise InputTypeError(
            f"{call.name}: the input has dtype {call.ops.dtype(x)}, and only floating-point inputs have a gradient. "
            f"Convert it, or, for tokens, penalise with respect to an embedding: pass the rest of the network as the "
            f"model and the embedded input as x, or name the layer with at=."
        )


def forward_pass(call: Call, model: Any, x: Array, y: Any, ids: Array | None, names: tuple[str | None, ...]) -> Forward:
    """Call the model once, keeping a pullback to the input (None) and to each named activation in `names`.

    Raises:
        UnsupportedError: the backend has no names for activations.
    """
    ops = call.ops
    if None in names:
        require_floating(call, x)
    pullbacks: dict[str | None, Pullback]
    if not names:
        outputs, pullbacks = model(x), {}
    elif names == (None,):
        outputs, pullback = ops.vjp(model, x)
        pullbacks = {None: pullback}
    else:
        outputs, pullbacks = ops.named_vjp(model, x, names)
    return make_forward(call, model, x, y, outputs, ids, pullbacks)


def make_forward(
    call: Call,
    model: Any,
    x: Array,
    y: Any,
    outputs: Any,
    ids: Array | None,
    pullbacks: dict[str | None, Pullback] | None = None,
    pushed: Any = None,
) -> Forward:
    """The outputs of a model for x, checked and brought into one layout.

    Raises:
        InputTypeError: they are not one floating-point array.
        InputError: they have no batch axis, or are not finite where reading them is free.
    """
    ops = call.ops
    if not ops.is_array(outputs) or not is_floating(ops.dtype(outputs)):
        raise InputTypeError(
            f"{call.name}: the model must return one array of floating-point outputs, got {type(outputs).__name__}"
            f"{' of ' + ops.dtype(outputs) if ops.is_array(outputs) else ''}. Wrap it: lambda x: model(x).logits, say."
        )
    batch = ops.shape(x)[0]
    layout = Layout.of(call.name, ops.shape(outputs), batch, call.class_axis)
    values = ops.values_if_free(outputs)
    if values is not None and not (values.max() < math.inf and values.min() > -math.inf):  # nor for a NaN
        sample = int((abs(values) < math.inf).reshape(batch, -1).all(-1).argmin())
        raise InputError(
            f"{call.name}: the outputs of sample {sample} are NaN or infinite; the model or its input diverged before "
            f"any penalty was computed. Lower the learning rate or look at the data."
        )
    logits = widened(ops, layout.to_canonical(ops, outputs))
    return Forward(call, y, outputs, layout, logits, pullbacks or {}, ids, model, x, pushed)
