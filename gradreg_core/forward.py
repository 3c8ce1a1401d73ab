"""One forward pass: the outputs in one layout, and the pullbacks to whatever is differentiated."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from gradreg_core.backend import Apply, Array, Backend, ModelPass, Pair, Pullback
from gradreg_core.errors import InputError, InputTypeError
from gradreg_core.inputs import Arguments, unpack
from gradreg_core.keras_masks import require_unmasked
from gradreg_core.labels import Target, ignored, prepare_target
from gradreg_core.layout import HALF, Layout, widened
from gradreg_core.scalars import weights
from gradreg_core.selection import Selector, select, selected_arrays
from gradreg_core.structures import flatten

__all__ = [
    "Call",
    "Forward",
    "Samples",
    "application",
    "forward_pass",
    "make_forward",
    "position_weights",
    "require_differentiable",
    "scored",
]


# These classes are not frozen, though nothing changes them: frozen ones take three times as long to make in every call.
@dataclass
class Call:
    """The arguments of one call that do not depend on the term; :class:`gradreg_core.calls.Calls` describes them."""

    ops: Backend
    name: str
    step: Any = 0
    seed: Any = None
    loss_fn: Callable[[Any, Any], Array] | None = None
    outputs: Selector = None
    sample_ids: Any = None
    sample_weight: Any = None
    position_weight: Any = None
    ignore_index: int | None = None
    normalizer: Any = None
    class_axis: int | None = None
    directions: Any = None
    target: Any = None
    params: Any = None
    chunk_size: int | None = None

    def seed_of(self, term: Any) -> Any:
        """The seed of a term's draws: the call's, if it has one."""
        return term.seed if self.seed is None else self.seed

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the call, for another call with the same."""
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        return {name: value for name, value in values.items() if name not in ("ops", "name")}


@dataclass
class Samples:
    """The samples of a pass: the model's input, and the data that belongs to each sample."""

    arguments: Arguments
    y: Any = None
    """Labels, in any structure."""
    ids: Array | None = None
    """int32 (B,), or None for 0..B-1."""
    position_weight: Array | None = None
    """(B, positions...)."""
    target: Any = None
    """The target Jacobian (B, *outputs, *input), or a teacher."""

    @property
    def batch(self) -> int:
        """The number of samples."""
        return self.arguments.batch

    @property
    def like(self) -> Array:
        """An array on the device of the input."""
        return self.arguments.like

    def take(self, indices: Array) -> "Samples":
        """The samples at `indices`, everything that belongs to them cut alike."""
        ops, like = self.arguments.ops, self.like
        ids = ops.arange(self.batch, like) if self.ids is None else self.ids

        def cut(value: Any) -> Any:
            array = ops.asarray(value, like) if hasattr(value, "shape") or _is_numbers(value) else None
            if array is None or ops.shape(array)[:1] != (self.batch,):
                return value
            return ops.take(array, indices)

        labels, rebuild = flatten(self.y, lambda value: ops.is_array(value) or _is_numbers(value))
        y = rebuild([cut(leaf) for _, leaf in labels])
        weight = None if self.position_weight is None else ops.take(self.position_weight, indices)
        return Samples(self.arguments.take(indices), y, ops.take(ids, indices), weight, cut(self.target))


def _is_numbers(value: Any) -> bool:
    """Whether `value` is a list of numbers, nested or not, which stands for an array."""
    if not isinstance(value, list | tuple) or not value:
        return False
    return all(isinstance(item, int | float) or _is_numbers(item) for item in value)


@dataclass
class Forward:
    """One forward pass over a batch or a part of it."""

    call: Call
    model: Any
    """For the terms that pass through the model again."""
    samples: Samples
    outputs: Array
    """The selected outputs, (B, ...)."""
    returned: Any
    """The model's result."""
    layout: Layout
    dtype: str
    """The layout of the outputs."""
    wide: Array
    """The outputs in float32 or better."""
    pullbacks: dict[Pair, Pullback]
    """The pullback from the outputs or a named place (None, or `of`) to the input or a place (None, or `at`)."""
    values: dict[str, Array] = field(default_factory=dict)
    """The value of each named place."""
    pushed: Any = None
    """The first row of an input-side term that shared the pass, as (term, array)."""
    _cache: dict[str, Any] = field(default_factory=dict)

    @property
    def logits(self) -> Array:
        """(B, positions, classes), in float32 or better; computed once, on demand."""
        if "logits" not in self._cache:
            self._cache["logits"] = self.layout.to_canonical(self.call.ops, self.wide)
        return self._cache["logits"]

    @property
    def x(self) -> Array | None:
        """The packed differentiable input."""
        return self.samples.arguments.packed()

    @property
    def y(self) -> Any:
        """The labels."""
        return self.samples.y

    @property
    def sample_ids(self) -> Array | None:
        """int32 (B,), or None for 0..B-1."""
        return self.samples.ids

    def target(self, asker: str) -> Target:
        """The labels as a distribution, prepared once; `asker` needs them, for messages."""
        if "target" not in self._cache:
            call = self.call
            self._cache["target"] = prepare_target(
                call.ops, call.name, self.y, self.layout, self.wide, asker, call.ignore_index
            )
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

    @property
    def position_weight(self) -> Array | None:
        """The weight of each position, (B, positions), or None if all count alike.

        Raises:
            InputError: the weights do not fit the outputs, are negative, or `ignore_index` comes without labels.
        """
        if "weight" not in self._cache:
            self._cache["weight"] = position_weights(self.call, self.samples, self.layout, self.wide)
        return self._cache["weight"]

    def mask(self) -> Array | None:
        """1 where the outputs count and 0 where their position has weight 0; None if all count.

        The shape is (B, positions, 1), or (B, 1, m) for a place whose positions are among its components.
        """
        weight = self.position_weight
        if weight is None:
            return None
        ops = self.call.ops
        counts = ops.astype(weight > 0, ops.dtype(self.wide))
        return ops.reshape(counts, (*self.layout.canonical[:2], -1))

    @property
    def position_share(self) -> Array | None:
        """The weight of each position as a share of its sample's, (B, positions); 0 if no position counts."""
        ops, weight = self.call.ops, self.position_weight
        if weight is None:
            return None
        total = ops.sum(weight, 1, keepdims=True)
        return weight / ops.where(total > 0, total, 1.0)

    def mean_over_positions(self, values: Array) -> Array:
        """The weighted mean of values (B, positions) over the positions of each sample; 0 if none counts."""
        ops, share, positions = self.call.ops, self.position_share, self.layout.canonical[1]
        if share is None:
            total = ops.sum(values, 1)
            return total if positions == 1 else total / positions
        # A position of weight 0 may hold anything, and 0 times infinity is not 0.
        return ops.sum(share * ops.where(share > 0, values, 0.0), 1)

    def place(self, of: str | None) -> "Forward":
        """The pass with the value of the place `of` as its outputs; unchanged for None.

        Raises:
            InputError: the place has no batch axis.
        """
        if of is None:
            return self
        key = f"of {of}"
        if key not in self._cache:
            ops, value = self.call.ops, self.values[of]
            layout = Layout.of(f"{self.call.name}: of={of!r}", ops.shape(value), self.samples.batch, None)
            weight = _of_place(self, of, value)
            pullbacks = {pair: pullback for pair, pullback in self.pullbacks.items() if pair[0] == of}
            self._cache[key] = replace(
                self,
                outputs=value,
                layout=layout,
                dtype=ops.dtype(value),
                wide=widened(ops, value),
                pullbacks=pullbacks,
                _cache={"weight": weight},
            )
        forward: Forward = self._cache[key]
        return forward


def position_weights(call: Call, samples: Samples, layout: Layout, like: Array) -> Array | None:
    """The weight of each position of `samples`, (B, positions), or None if all count alike.

    Args:
        call: the call, for its `position_weight` and `ignore_index`.
        samples: the samples.
        layout: of the outputs; its batch may be another.
        like: an array of the dtype and the device of the weights.

    Raises:
        InputError: the weights do not fit the outputs or are negative, or `ignore_index` comes without labels.
    """
    ops, given = call.ops, samples.position_weight
    layout = Layout((samples.batch, *layout.shape[1:]), layout.class_axis)
    weight = None
    if given is not None:
        own = layout.position_shape(call.name, "position_weight")
        if ops.shape(given) != own:
            raise InputError(
                f"{call.name}: position_weight must have shape {own} for outputs of shape {layout.shape}, one weight "
                f"for each position, got {ops.shape(given)}."
            )
        weight = weights(ops, call.name, "position_weight", given, ops.dtype(like))
        weight = ops.reshape(weight, layout.canonical[:2])
    if call.ignore_index is not None:
        counted = ignored(ops, call.name, samples.y, layout, like, call.ignore_index)
        weight = counted if weight is None else weight * counted
    return weight


def _of_place(forward: Forward, of: str, value: Array) -> Array | None:
    """The weights of the positions, as weights of the components of a place whose first axes are these positions."""
    weight = forward.position_weight
    if weight is None:
        return None
    ops, shape = forward.call.ops, forward.call.ops.shape(value)
    positions = forward.layout.position_shape(forward.call.name, "position_weight")
    if shape[: len(positions)] != positions:
        raise InputError(
            f"{forward.call.name}: of={of!r} has shape {shape}, which does not begin with the positions {positions} "
            f"that have weights. Leave position_weight= and ignore_index= out for this term, in a call of its own."
        )
    wide = ops.reshape(weight, (*positions, *[1] * (len(shape) - len(positions))))
    return ops.reshape(ops.broadcast_to(wide, shape), (shape[0], math.prod(shape[1:])))


def require_differentiable(call: Call, arguments: Arguments) -> Array:
    """The packed input.

    Raises:
        InputTypeError: no array in x is of a floating-point type.
    """
    packed = arguments.packed()
    if packed is None:
        dtypes = ", ".join(dict.fromkeys(call.ops.dtype(array) for array in arguments.arrays))
        raise InputTypeError(
            f"{call.name}: the input has dtype {dtypes}, and only floating-point inputs of 16 bits or more have a "
            f"gradient. Convert it; or, for tokens, penalise with respect to an embedding, named by at=: mark it in "
            f"the model with h = gradreg.tap('embedding', h) and pass SpectReg(..., at='embedding'), or pass the rest "
            f"of the network as the model and the embedded input as x."
        )
    return packed


def application(call: Call, arguments: Arguments) -> Apply:
    """The model as a function of its packed input: (model, x) -> (selected outputs, what it returned)."""

    def apply(model: Any, x: Array | None) -> tuple[Array, Any]:
        returned = arguments.passed_to(model, x)
        if getattr(call.loss_fn, "refuse_mask", False):
            require_unmasked(call.name, selected_arrays(call.ops, call.name, call.outputs, returned))
        return select(call.ops, call.name, call.outputs, returned), returned

    return apply


def forward_pass(call: Call, model: Any, samples: Samples, pairs: Sequence[Pair]) -> Forward:
    """Call the model once, keeping a pullback for each pair (of, at) of places."""
    arguments = samples.arguments
    packed = arguments.packed()
    if packed is None and any(at is None for _, at in pairs):
        require_differentiable(call, arguments)
    passed = call.ops.model_vjp(model, application(call, arguments), packed, tuple(pairs))
    for name, value in passed.values.items():
        shape = call.ops.shape(value)
        if shape[:1] != (samples.batch,):
            raise InputError(
                f"{call.name}: the place {name!r} has shape {shape}, and a place must have the batch axis first, of "
                f"{samples.batch} samples. Mark it with a tap where the batch axis is first: move the axis, tap, move "
                f"it back."
            )
    return make_forward(call, model, samples, passed)


def make_forward(call: Call, model: Any, samples: Samples, passed: ModelPass, pushed: Any = None) -> Forward:
    """The result of a pass, checked and brought into one layout.

    Raises:
        InputError: the outputs have no batch axis, or are not finite and reading them is free.
    """
    ops, outputs = call.ops, passed.outputs
    layout = Layout.of(call.name, ops.shape(outputs), samples.batch, call.class_axis)
    if isinstance(call.outputs, list | tuple):
        layout = layout.without_classes()
    values = ops.values_if_free(outputs)
    if values is not None and not _all_finite(values):
        sample = int((abs(values) < math.inf).reshape(samples.batch, -1).all(-1).argmin())
        raise InputError(
            f"{call.name}: the outputs of sample {sample} are NaN or infinite; the model or its input diverged before "
            f"any penalty was computed. Lower the learning rate or look at the data."
        )
    # If all positions count alike, the weights are known: None.
    known = {"weight": None} if call.position_weight is None and call.ignore_index is None else {}
    forward = Forward(
        call,
        model,
        samples,
        outputs,
        passed.returned,
        layout,
        dtype := ops.dtype(outputs),
        ops.astype(outputs, "float32") if dtype in HALF else outputs,
        passed.pullbacks,
        passed.values,
        pushed,
        known,
    )
    if not isinstance(call.step, int):
        _ = forward.logits  # here, because its first use may be in the branch of a traced step
    return forward


def _all_finite(values: np.ndarray) -> bool:
    # A NaN is the first of the largest and of the smallest. These two take a third of the time of the reductions.
    return bool(values.item(values.argmax()) < math.inf and values.item(values.argmin()) > -math.inf)


def scored(forward: Forward, outputs: Array) -> Any:
    """The selected outputs as the loss function gets them: one array, or the list that `outputs=` names."""
    call = forward.call
    if not isinstance(call.outputs, list | tuple):
        return outputs
    return unpack(call.ops, outputs, selected_arrays(call.ops, call.name, call.outputs, forward.returned))
