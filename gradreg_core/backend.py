"""The base class of backends: array operations and autodiff, never a regularizer.

A backend is a subclass of :class:`Backend`. Methods that a framework can improve on have a default. Arrays are the
framework's own, dtypes are named by strings ("float32"), and every method works on traced arrays too unless it says
otherwise. No method writes into its arguments.

The engine writes the rest with Python operators on the arrays: ``+ - * /``, ``-a``, comparisons, slices such as
``a[:, :3]``, and on int32 ``^ & | %``. Arithmetic on int32 wraps around, without a warning. A Python number takes the
dtype of the array beside it.
"""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from gradreg_core import closures, structures
from gradreg_core.errors import InputTypeError
from gradreg_core.objective import Objective, OfInput, Scalar
from gradreg_core.passes import Apply, ModelPass, Pair, perturbed_pass
from gradreg_core.primitives import Array, DrawPrimitives, Model, Pullback
from gradreg_core.structures import Leaves, Rebuild

__all__ = ["Apply", "Array", "Backend", "DrawPrimitives", "Model", "ModelPass", "Pair", "Pullback"]


class Backend(DrawPrimitives):
    """The primitives that :mod:`gradreg_core.engine` is written over."""

    name: str
    default_chunk: int | None = 1
    """How many rows `pull_rows` gets at a time by default; None for all."""

    def for_call(self) -> "Backend":
        """The backend for one call: itself (the default), or one that knows more about where the call runs."""
        return self

    # --- array properties ------------------------------------------------------------------------------------------
    @abstractmethod
    def is_array(self, value: Any) -> bool:
        """Whether `value` is an array of this framework, traced or 0-d ones included; False for lists and numbers."""

    def conversion(self, value: Any) -> str:
        """How a user turns `value` into an array, for messages. Default: convert it, or import its own backend."""
        return "Convert it, or import the backend of its framework."

    @abstractmethod
    def asarray(self, value: Any, like: Array) -> Array:
        """`value` (array, list or number) as an array on the device of `like`; its dtype stays, 64 bits may narrow."""

    def values_if_free(self, array: Array) -> np.ndarray | None:
        """`array` as a NumPy array if reading it costs nothing (on the CPU, not traced), else None (the default)."""
        return None

    def draws_on_host(self, like: Array) -> bool:
        """Whether draws for arrays like this one are made on the host, without reading an array. Default: no."""
        return False

    def static_int(self, value: Any) -> int | None:
        """`value` as a Python int if that costs nothing, else None. Default: Python and NumPy integers."""
        return int(value) if isinstance(value, int | np.integer) and not isinstance(value, bool) else None

    # --- moving arrays ---------------------------------------------------------------------------------------------
    @abstractmethod
    def moveaxis(self, array: Array, source: int, destination: int) -> Array:
        """`array` with one axis moved."""

    @abstractmethod
    def broadcast_to(self, array: Array, shape: Sequence[int]) -> Array:
        """`array` repeated to `shape`, along axes of length 1 and along new leading axes."""

    # --- arithmetic ------------------------------------------------------------------------------------------------
    @abstractmethod
    def sum(self, array: Array, axis: int | tuple[int, ...], keepdims: bool = False) -> Array:
        """Sum over axes, in the array's dtype, for int32 too."""

    def mean(self, array: Array) -> Array:
        """Mean over the first axis. Override it if the framework has it as one operation with the same bits."""
        return self.sum(array, 0) / float(self.shape(array)[0])

    @abstractmethod
    def sqrt(self, array: Array) -> Array:
        """Square root."""

    @abstractmethod
    def sign(self, array: Array) -> Array:
        """-1, 0 or 1, without gradient."""

    @abstractmethod
    def argmax(self, array: Array) -> Array:
        """Index (int32) of the first maximum over the last axis."""

    @abstractmethod
    def argsort(self, array: Array) -> Array:
        """Indices (int32) that sort the last axis in ascending order; equal values keep their order."""

    @abstractmethod
    def cumulative_sum(self, array: Array) -> Array:
        """Running sum over the last axis."""

    @abstractmethod
    def softmax(self, array: Array) -> Array:
        """Softmax over the last axis, twice differentiable."""

    @abstractmethod
    def log_softmax(self, array: Array) -> Array:
        """Log-softmax over the last axis, twice differentiable."""

    @abstractmethod
    def sigmoid(self, array: Array) -> Array:
        """Logistic function, twice differentiable."""

    @abstractmethod
    def softplus(self, array: Array) -> Array:
        """log(1 + exp(a)) without overflow and without a threshold, twice differentiable."""

    @abstractmethod
    def eigvalsh(self, array: Array) -> Array:
        """Eigenvalues, ascending, of symmetric matrices in the last two axes; never differentiated."""

    @abstractmethod
    def matmul(self, left: Array, right: Array) -> Array:
        """Matrix product over the last two axes."""

    def cross_entropy(self, logits: Array, labels: Array) -> Array:
        """The cross-entropy of each row of logits, (...), twice differentiable.

        Override it if the framework has it as one operation.

        Args:
            logits: (..., classes).
            labels: integers (...), in range.
        """
        *leading, classes = self.shape(logits)
        classes_of_labels = self.reshape(self.int32(labels, logits), (*leading, 1))
        is_label = classes_of_labels == self.reshape(self.arange(classes, logits), (*[1] * len(leading), classes))
        return -self.sum(self.where(is_label, self.log_softmax(logits), 0.0), -1)

    # --- differentiation -------------------------------------------------------------------------------------------
    @abstractmethod
    def vjp(self, fn: Model, x: Array) -> tuple[Array, Pullback]:
        """(fn(x), pullback): pullback(w) is J^T w. It can be called repeatedly and differentiated, also in w.

        Gradients flow from both results to the arrays that fn closes over (weights) and to x itself. If fn returns
        something other than an array, it is returned unchanged, and the engine raises the error.

        Raises:
            InputError: by the pullback, if x does not reach fn(x) and the framework can tell.
        """

    @abstractmethod
    def stop_gradient(self, array: Array) -> Array:
        """`array` as a constant."""

    def vjp_with_aux(self, fn: Callable[[Array], tuple[Array, Any]], x: Array) -> tuple[Array, Any, Pullback]:
        """(outputs, aux, pullback) for fn(x) -> (outputs, aux), as `vjp`.

        Default: aux leaves `fn` as a side effect. Override it if arrays must not leave a transformed function that way.
        """
        kept: list[Any] = []

        def outputs_alone(point: Array) -> Array:
            outputs, aux = fn(point)
            kept.append(aux)
            return outputs

        outputs, pullback = self.vjp(outputs_alone, x)
        return outputs, kept[-1], pullback

    def jvp(self, fn: Model, x: Array, v: Array) -> tuple[Array, Array]:
        """(fn(x), J v), differentiable.

        Default: two reverse passes, since J v is the derivative of the linear map u -> J^T u, pulled back.
        """
        outputs, pullback = self.vjp(fn, x)
        _, push = self.vjp(pullback, self.stop_gradient(outputs))
        return outputs, push(v)

    def pull_rows(self, pullback: Pullback, rows: Array) -> Array:
        """`pullback` of each row of (c, B, ...), stacked: (c, B, ...). Default: one after another."""
        pulled = [pullback(rows[index]) for index in range(self.shape(rows)[0])]
        return self.concat([self.reshape(array, (1, *self.shape(array))) for array in pulled], 0)

    def cond(self, predicate: Array, branch: Callable[[], Array]) -> Array:
        """branch() if the traced `predicate` holds, else 0 in the same shape and dtype. Default: always computed."""
        return self.where(predicate, branch(), 0.0)

    # --- the model -------------------------------------------------------------------------------------------------
    def flatten(self, structure: Any) -> tuple[Leaves, Rebuild]:
        """The leaves of a nested structure with their paths, and a function that rebuilds it from new leaves.

        Default: for dicts, lists, tuples, named tuples and dataclasses.
        """
        return structures.flatten(structure, self.is_array)

    def enter(self, call: str, model: Any, arrays: Sequence[Array], batch_norm: str) -> AbstractContextManager[None]:
        """A context for the whole call: gradient mode on, misuse refused. Default: does nothing.

        Args:
            call: the name of the call, for messages.
            model: as the user passed it.
            arrays: the arrays of the input.
            batch_norm: the policy.

        Raises:
            InputError: inference mode.
            BatchNormError: batch normalisation in training mode and `batch_norm` is "error".
        """
        return nullcontext()

    def prepared(self, array: Array) -> Array:
        """An array of the input, ready to be differentiated, inside `enter`. Default: unchanged."""
        return array

    def model_vjp(self, model: Any, apply: Apply, x: Array | None, pairs: Sequence[Pair]) -> ModelPass:
        """One pass through the model, with a pullback for each pair (of, at): from `of` back to `at`.

        A place is a tap, a layer if the framework's models have names, or None: x as `at`, the outputs as `of`.
        The state is updated once. Default: by `vjp_with_aux`; to differentiate at a named place, zeros are added to
        it, whose shape a first pass finds.

        Args:
            model: as the user passed it.
            apply: apply(model, x) -> (outputs, what the model returned). Call it with `model` or a stand-in for it.
            x: the differentiable input, or None if nothing in the input is.
            pairs: without repetition; empty if nothing in the pass is differentiated.

        Raises:
            InputError: the model passes a place not at all, or twice.
        """
        if not pairs:
            return ModelPass(*apply(model, x), {}, {})
        if all(pair == (None, None) for pair in pairs):
            outputs, returned, pullback = self.vjp_with_aux(lambda point: apply(model, point), x)
            return ModelPass(outputs, returned, {(None, None): pullback}, {})
        return perturbed_pass(self, self.vjp_with_aux, model, self.without_state_changes(model), apply, x, pairs)

    def model_jvp(self, model: Any, apply: Apply, x: Array, v: Array) -> tuple[Array, Any, Array]:
        """(outputs, what the model returned, J v) of one pass, differentiable. The state is updated once.

        Default: two reverse passes, as `jvp`.
        """
        outputs, returned, pullback = self.vjp_with_aux(lambda point: apply(model, point), x)
        _, push = self.vjp(pullback, self.stop_gradient(outputs))
        return outputs, returned, push(v)

    def finish(self, value: Array) -> Array:
        """`value` as a call returns it: detached if the caller's own mode records no graph. Default: unchanged."""
        return value

    def require_gradient(self, call: str, model: Any, value: Array) -> None:
        """Refuse a penalty without the gradient that the caller expects, if finding that out costs nothing.

        Default: nothing is refused.

        Raises:
            InputError: the model has parameters to train, and the penalty depends on none of them.
        """

    def repeatable(self, model: Any) -> AbstractContextManager[None]:
        """A context in which random layers repeat the same draws; the generator is restored afterwards.

        Default: does nothing, for frameworks whose models hold no generator.
        """
        return nullcontext()

    def call_twice(self, model: Any, apply: Apply, x: Array, moved: Array) -> tuple[Array, Any, Array]:
        """(outputs, what the model returned, outputs at `moved`) with the same random masks. State updates once.

        Default: two passes, for models without a generator.
        """
        outputs, returned = apply(model, x)
        return outputs, returned, apply(self.without_state_changes(model), moved)[0]

    def call_along(
        self, model: Any, apply: Apply, x: Array, move: Callable[[Array, Any, Pullback], Array]
    ) -> tuple[Array, Any, Array]:
        """Like `call_twice`, with the moved input computed from an earlier pass at x with the same random masks.

        The earlier pass is not differentiated again. Default: a pass that changes no state, then `call_twice`.

        Args:
            model: as the user passed it.
            apply: as in `model_vjp`.
            x: the differentiable input.
            move: (outputs, what the model returned, pullback to x) -> the moved input.
        """
        stateless = self.without_state_changes(model)
        passed = self.vjp_with_aux(lambda point: apply(stateless, point), self.stop_gradient(x))
        return self.call_twice(model, apply, x, move(*passed))

    def without_state_changes(self, model: Any) -> Model:
        """The model as a callable that changes none of its state (moving statistics, counters). Default: the model.

        It takes the model's own arguments. A call uses it for all passes after the first: one state update per call.
        """
        return model  # type: ignore[no-any-return]

    def is_parameter(self, value: Any) -> bool:
        """Whether an array that a model refers to is one of its parameters or variables, by its type. Default: no."""
        return False

    def holds_samples(self, model: Any, batch: int) -> bool:
        """Whether the model may hold arrays of the batch itself, so that a part of it cannot be passed alone.

        Default: whether anything that it refers to has `batch` as its first length and is not a parameter.
        """
        return closures.holds_samples(model, batch, self.is_array, self.is_parameter)

    def draws_numbers(self, run: Callable[[], Array]) -> bool:
        """Whether run() draws random numbers, inside `repeatable`. Default: whether two runs differ."""
        apart = self.astype(self.stop_gradient(run() - run()), "float32")
        return float(self.sum(apart * apart, tuple(range(len(self.shape(apart)))))) > 0

    def smoothed(self, model: Any) -> AbstractContextManager[Any]:
        """A context that yields the model with rectifiers, maxima and absolute values rounded off.

        `check` compares with finite differences, which do not converge over many kinks. Default: the model itself.
        """
        return nullcontext(model)

    def copied(self, model: Any) -> AbstractContextManager[Any]:
        """A context that yields the model on copies of its weights, for `check`, which moves them.

        Default: the model itself, for models that cannot be copied; other threads may then see its weights move.
        """
        return nullcontext(model)

    def objective(self, model: Any, fn: Scalar, reach: Scalar, x: Array | None, data: Sequence[Array]) -> Objective:
        """`fn` as a function of x and of the weights that the model uses, for `check`. Default: of x alone.

        Args:
            model: as the user passed it; its weights are collected from it and from what it closes over.
            fn: the scalar; it calls the model.
            reach: a scalar of the outputs, which tells which weights the outputs depend on.
            x: the packed differentiable input, or None if nothing in the input is.
            data: further arrays of the call, which are not weights.
        """
        return OfInput(self, fn)

    def blame(self, error: Exception, model: Any, run: Callable[[Any], Any]) -> list[tuple[str, str]]:
        """The operations without a first or second derivative that caused `error`, raised while differentiating.

        Args:
            error: as it was raised.
            model: as the user passed it.
            run: run(model) calls the model, or a stand-in, with the input of the call.

        Returns:
            [(problem, remedy)]; empty (the default) if the error has another cause.
        """
        return []

    def how_it_runs(self, model: Any, arrays: Sequence[Any]) -> list[str]:
        """Notes for `check` on a model that is compiled, or that devices or processes share. Default: none.

        Args:
            model: as the user passed it.
            arrays: the arrays of the call.
        """
        return []

    def parameters(self, model: Any) -> list[Array] | None:
        """The trainable parameters that the framework sees on `model`, or None (the default) if it cannot look."""
        return None

    def tree_leaves(self, params: Any) -> list[Array]:
        """The arrays in a nested structure of parameters, traced ones too. Default: for lists, tuples and dicts.

        Raises:
            InputTypeError: the structure holds something that is not an array.
        """
        if self.is_array(params):
            return [params]
        is_foreign = isinstance(params, str | bytes) or hasattr(params, "dtype")  # which may be iterable
        if is_foreign or not isinstance(params, Mapping | Iterable):
            raise InputTypeError(
                f"params must be arrays of the {self.name} backend in lists, tuples or dicts, got {params!r}."
            )
        children = params.values() if isinstance(params, Mapping) else params
        return [leaf for child in children for leaf in self.tree_leaves(child)]
