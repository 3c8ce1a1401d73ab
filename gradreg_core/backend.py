"""What a backend supplies: array operations and autodiff. Never a regularizer.

A backend is any object with these methods; it need not inherit from :class:`Backend`. Arrays are the framework's own,
dtypes are named by strings ("float32"), and every method works on traced arrays too unless it says otherwise.

What the methods do not cover is written with Python operators on the arrays: ``+ - * /``, ``-a``, comparisons, slices
such as ``a[:, :3]``, and on int32 ``^ & | %``. Arithmetic on int32 wraps around, without a warning. A Python number
takes the dtype of the array beside it. No method writes into its arguments.

More methods are optional:

- ``jvp(fn, x, v) -> (fn(x), J v)``, differentiable, where there is a forward mode; without it two reverse ones serve;
- ``both(model, x, moved) -> (model(x), model(moved))``, with the same random masks in both, where a model may draw its
  own; without it the model is called twice;
- ``aside(model)``, the model as a function that changes none of its state (moving statistics, counters), for the passes
  of a call after the first; without it each pass counts;
- ``threefry2x32(key, counter)``, with the words of :func:`gradreg_core.random.threefry2x32`, and
  ``draws(seed, step, sample_ids)``, a :class:`gradreg_core.random.Draws`, where there is a faster way to the same bits
  (seed and step are Python ints, or integer scalars of the framework);
- ``smoothed(model, x)``, a context that gives the model with rectifiers, maxima and absolute values rounded off, for
  the finite differences of the check, which do not converge over many kinks;
- ``cross_entropy(logits, labels)``, logits (B, positions, classes) and integers (B, positions) known to be in range ->
  (B,), summed over the positions: one operation for eager frameworks, where the general form takes ten.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

__all__ = ["Array", "Backend", "Model", "Pullback"]

Array = Any
"""An array of whichever framework the backend belongs to."""
Model = Callable[[Array], Array]
Pullback = Callable[[Array], Array]


class Backend(Protocol):
    """The primitives that :mod:`gradreg_core.engine` is written over."""

    name: str
    capabilities: frozenset[str]
    """Of ``named_activations`` (`at=`), ``host_checks`` (values can be read eagerly), ``traced_branch`` (`cond` skips
    the branch not taken), ``batched_pullback`` (several cotangents in one pass); the description has the same.

    The engine asks for ``named_activations`` alone; the others tell users what to expect."""

    # --- what an array is ------------------------------------------------------------------------------------------
    def is_array(self, value: Any) -> bool:
        """Whether `value` is an array of this framework, traced or of no axes too; False for lists and numbers."""
        ...

    def asarray(self, value: Any, like: Array) -> Array:
        """`value` (array, list or number) as an array on the device of `like`; its dtype stays, 64-bit may narrow."""
        ...

    def shape(self, array: Array) -> tuple[int, ...]:
        """The static shape."""
        ...

    def dtype(self, array: Array) -> str:
        """The dtype's name, such as ``"float32"`` or ``"int64"``."""
        ...

    def values_if_free(self, array: Array) -> Any | None:
        """`array` as a NumPy array where reading it is free (on the CPU, and a value is there), else None."""
        ...

    # --- making and moving arrays ----------------------------------------------------------------------------------
    def constant(self, values: Any, dtype: str, like: Array) -> Array:
        """An array of Python numbers on the device of `like`."""
        ...

    def int32(self, value: Any, like: Array) -> Array:
        """A Python int in [-2**31, 2**31) or a (traced) integer array, as int32 on the device of `like`, wrapped."""
        ...

    def arange(self, stop: int, like: Array) -> Array:
        """0 .. stop-1 as int32."""
        ...

    def astype(self, array: Array, dtype: str) -> Array:
        """`array` converted to `dtype`, differentiably."""
        ...

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        """`array` in a new shape, of which one length may be -1."""
        ...

    def moveaxis(self, array: Array, source: int, destination: int) -> Array:
        """`array` with one axis moved."""
        ...

    def broadcast_to(self, array: Array, shape: Sequence[int]) -> Array:
        """`array` repeated to `shape`, along axes of length 1 and new ones before the first."""
        ...

    def concat(self, arrays: Sequence[Array], axis: int) -> Array:
        """`arrays` joined along an axis that exists."""
        ...

    def take(self, array: Array, indices: Array) -> Array:
        """Rows of `array` (axis 0) at integer `indices` of any shape, differentiably."""
        ...

    # --- arithmetic ------------------------------------------------------------------------------------------------
    def bitwise_left_shift(self, array: Array, bits: Any) -> Array:
        """int32 << bits (a Python int, or an int32 array)."""
        ...

    def bitwise_right_shift(self, array: Array, bits: Any) -> Array:
        """Integers >> bits, arithmetic for signed ones: the sign bit is copied in. For int32, and int64 where it is."""
        ...

    def where(self, condition: Array, if_true: Any, if_false: Any) -> Array:
        """Element by element choice; one of the two choices may be a Python number, and takes the other's dtype."""
        ...

    def sum(self, array: Array, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
        """Sum over axes, in the array's dtype, for int32 too."""
        ...

    def sqrt(self, array: Array) -> Array:
        """Square root."""
        ...

    def sign(self, array: Array) -> Array:
        """-1, 0 or 1, without gradient."""
        ...

    def argmax(self, array: Array) -> Array:
        """Index (int32) of the first maximum over the last axis."""
        ...

    def argsort(self, array: Array) -> Array:
        """Indices (int32) that sort the last axis in ascending order, equal values in their order."""
        ...

    def cumulative_sum(self, array: Array) -> Array:
        """Running sum over the last axis."""
        ...

    def softmax(self, array: Array) -> Array:
        """Softmax over the last axis, twice differentiable."""
        ...

    def log_softmax(self, array: Array) -> Array:
        """Log-softmax over the last axis, twice differentiable."""
        ...

    def sigmoid(self, array: Array) -> Array:
        """Logistic function, twice differentiable."""
        ...

    def softplus(self, array: Array) -> Array:
        """log(1 + exp(a)) without overflow and without a threshold, twice differentiable."""
        ...

    def eigvalsh(self, array: Array) -> Array:
        """Eigenvalues, ascending, of symmetric matrices in the last two axes; nothing differentiates them."""
        ...

    def matmul(self, left: Array, right: Array) -> Array:
        """Matrix product over the last two axes."""
        ...

    # --- differentiation -------------------------------------------------------------------------------------------
    def vjp(self, fn: Model, x: Array) -> tuple[Array, Pullback]:
        """(fn(x), pullback): pullback(w) is J^T w, and may be called again and differentiated, in w too.

        What is differentiated around the call (weights, x itself) must stay reachable from both results. If fn returns
        no array, it is given back as it came, and the engine says what is wrong.

        Raises:
            InputError: by the pullback, if x does not reach fn(x) and the framework can tell.
        """
        ...

    def named_vjp(self, model: Any, x: Array, names: Sequence[str | None]) -> tuple[Array, dict[str | None, Pullback]]:
        """Like `vjp`, with a pullback to each named activation (None: to x); capability ``named_activations``.

        Without the capability it is never called.
        """
        ...

    default_chunk: int | None
    """Rows that `pull_rows` gets at a time unless the caller says otherwise; None for all."""

    def pull_rows(self, pullback: Pullback, rows: Array) -> Array:
        """`pullback` of each of rows (c, B, ...), stacked: (c, B, ...). One batched pass where that is faster."""
        ...

    def stop_gradient(self, array: Array) -> Array:
        """`array` as a constant."""
        ...

    def cond(self, predicate: Array, branch: Callable[[], Array]) -> Array:
        """branch() where the traced `predicate` holds, else a float 0 of the same shape and dtype."""
        ...

    def static_int(self, value: Any) -> int | None:
        """`value` as a Python int where that costs nothing, else None."""
        ...

    # --- the model -------------------------------------------------------------------------------------------------
    def enter(self, call: str, model: Any, x: Array, batch_norm: str) -> AbstractContextManager[Array]:
        """A context for the whole call that gives x ready to be differentiated, gradient mode on, misuse refused.

        A framework without such modes gives ``nullcontext(x)``. `call` is the name of the call, for messages.

        Raises:
            InputError: inference mode.
            BatchNormError: batch normalisation in training mode and `batch_norm` is "error".
        """
        ...

    def require_gradient(self, call: str, model: Any, value: Array) -> None:
        """Refuse a penalty that cannot carry a gradient which the caller expects, where that can be told for nothing.

        Elsewhere do nothing.

        Raises:
            InputError: the model has parameters to train, and the penalty depends on none of them.
        """
        ...

    def finish(self, value: Array) -> Array:
        """`value` as it leaves a call: without history where the caller's own mode keeps none."""
        ...

    def repeatable(self, model: Any) -> AbstractContextManager[None]:
        """Random layers draw the same inside each such context, and the generator is as before afterwards."""
        ...

    def diagnose(
        self, calls: Any, model: Any, x: Array, y: Any, reg: Any, options: Any
    ) -> tuple[list[tuple[str, str, str]], bool]:
        """What only the framework can tell, as (level, problem, remedy), and whether no derivative exists at all.

        `level` is "error" or "warning". ``([], False)`` where there is nothing to tell.
        """
        ...

    def parameters(self, model: Any) -> list[Array] | None:
        """The trainable parameters that the framework finds on `model`, or None if it finds none of its kind."""
        ...

    def tree_leaves(self, params: Any) -> list[Array]:
        """The arrays in a nested structure of parameters: lists, tuples and dicts, traced ones too."""
        ...
