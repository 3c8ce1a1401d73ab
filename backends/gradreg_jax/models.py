"""What JAX's model libraries need: state that a call changes is threaded through a pure function.

None of them is imported here: a model of one of them comes with it imported.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradreg_core.backend import Model
from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message

__all__ = ["Stateful", "aside", "batch_norms", "functional", "parameters", "refuse_batch_norm", "repeatable"]

_frozen: ContextVar[bool] = ContextVar("gradreg_frozen", default=False)


class Stateful:
    """A pure function with state as a model: ``fn(x, state) -> (outputs, state)``, for batch statistics and the like.

    Make one inside the function that is differentiated, and return its `state` from there as auxiliary output::

        model = Stateful(lambda x, state: net.apply({"params": p, **state}, x, mutable=["batch_stats"]), state)
        total, parts = gradreg.loss(model, x, y, reg, step=step)
        return total, model.state

    Args:
        fn: the function.
        state: what the first call gets, a pytree; each call gets what the one before it returned.
    """

    def __init__(self, fn: Callable[[Any, Any], tuple[Any, Any]], state: Any) -> None:
        self.fn = fn
        self.state = state

    def __call__(self, x: Any) -> Any:
        """The outputs for x; the state moves on."""
        outputs, state = self.fn(x, self.state)
        self._keep(state)
        return outputs

    def _keep(self, state: Any) -> None:
        if not _frozen.get():
            self.state = state


def functional(model: Model) -> tuple[Callable[[Any], tuple[Any, Any]], Callable[[Any], None]]:
    """A pure function x -> (outputs, changes), and what puts the changes into the model."""
    if isinstance(model, Stateful):
        before = model.state
        return lambda x: model.fn(x, before), model._keep
    if not _is_nnx(model):
        return lambda x: (model(x), None), lambda changes: None
    nnx = sys.modules["flax.nnx"]
    graph, variables = nnx.split(model)

    def pure(x: Any) -> tuple[Any, Any]:
        copy = nnx.merge(graph, variables, copy=True)
        old = {path: each.get_raw_value() for path, each in nnx.to_flat_state(nnx.state(copy))}
        outputs = copy(x)
        changed = nnx.state(copy, lambda path, each: path in old and each.get_raw_value() is not old[path])
        return outputs, nnx.as_pure(changed)

    def keep(changes: Any) -> None:
        if changes and not _frozen.get():
            nnx.update(model, changes)

    return pure, keep


def aside(model: Model) -> Callable[[Any], Any]:
    """The model as a function that leaves its state as it is."""
    pure, _ = functional(model)
    return lambda x: pure(x)[0]


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """Calls inside leave the model's state as it was, random counters included."""
    token = _frozen.set(True)
    variables = [each for _, each in _nnx_state(model)]
    before = [each.get_raw_value() for each in variables]
    try:
        yield
    finally:
        _frozen.reset(token)
        for variable, value in zip(variables, before, strict=True):
            if variable.get_raw_value() is not value:
                variable.set_raw_value(value)


def parameters(model: Any) -> Any | None:
    """A pytree with the parameters of an NNX or Equinox module, else None."""
    if _is_nnx(model):
        return sys.modules["flax.nnx"].state(model, sys.modules["flax.nnx"].Param)
    equinox = sys.modules.get("equinox")
    return model if equinox is not None and isinstance(model, equinox.Module) else None


def batch_norms(model: Any) -> list[str]:
    """The names of an NNX module's batch normalisations in training mode."""
    if not _is_nnx(model):
        return []
    nnx = sys.modules["flax.nnx"]
    return [
        ".".join(map(str, path)) or "the model"
        for path, each in nnx.iter_modules(model)
        if isinstance(each, nnx.BatchNorm) and not each.use_running_average
    ]


def refuse_batch_norm(call: str, model: Any, policy: str) -> None:
    """Raise or warn if the model is seen to normalise over the batch.

    Raises:
        BatchNormError: it does, and the policy is "error".
    """
    for name in batch_norms(model):
        message = batch_norm_message(call, f"{name} (BatchNorm)", "GroupNorm or LayerNorm, call model.eval()")
        if policy == "error":
            raise BatchNormError(message)
        warnings.warn(message, BatchNormWarning, stacklevel=5)
        return


def _is_nnx(model: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def _nnx_state(model: Any) -> list[Any]:
    """(path, variable) of every variable of an NNX module."""
    if not _is_nnx(model):
        return []
    nnx = sys.modules["flax.nnx"]
    return list(nnx.to_flat_state(nnx.state(model)))
