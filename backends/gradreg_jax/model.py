"""Models with state: what a call changes is threaded through a pure function.

No model library is imported here: whoever passes a model of one has imported it.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from gradreg_core.backend import Model
from gradreg_core.errors import BatchNormError, BatchNormWarning, batch_norm_message

__all__ = [
    "Stateful",
    "batch_norms",
    "functional",
    "parameters",
    "refuse_batch_norm",
    "repeatable",
    "without_state_changes",
]

_frozen: ContextVar[bool] = ContextVar("gradreg_frozen", default=False)


class Stateful:
    """A pure function with state as a model: ``fn(x, state) -> (outputs, state)``, for batch statistics and the like.

    Make one inside the function that is differentiated, and return its `state` from there as auxiliary output::

        model = Stateful(lambda x, state: net.apply({"params": p, **state}, x, mutable=["batch_stats"]), state)
        total, parts = gradreg.loss(model, x, y, reg, step=step)
        return total, model.state

    Args:
        fn: the function.
        state: a pytree for the first call; each later call gets the state that the one before it returned.
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
    """A pure function x -> (outputs, changes), and a function that puts the changes into the model."""
    if isinstance(model, Stateful):
        before = model.state
        return lambda x: model.fn(x, before), model._keep
    if not _is_nnx(model):
        return lambda x: (model(x), None), lambda changes: None
    nnx = sys.modules["flax.nnx"]
    graph, variables = nnx.split(model)

    def pure(x: Any) -> tuple[Any, Any]:
        copy = nnx.merge(graph, variables, copy=True)
        old = {path: variable.get_raw_value() for path, variable in nnx.to_flat_state(nnx.state(copy))}
        outputs = copy(x)
        changed = nnx.state(copy, lambda path, value: path in old and value.get_raw_value() is not old[path])
        return outputs, nnx.as_pure(changed)

    def keep(changes: Any) -> None:
        if changes and not _frozen.get():
            nnx.update(model, changes)

    return pure, keep


def without_state_changes(model: Model) -> Callable[[Any], Any]:
    """The model as a function that leaves its state as it is."""
    pure, _ = functional(model)
    return lambda x: pure(x)[0]


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """Calls inside leave the model's state as it was, random counters included."""
    token = _frozen.set(True)
    variables = _nnx_variables(model)
    before = [variable.get_raw_value() for variable in variables]
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
        for path, module in nnx.iter_modules(model)
        if isinstance(module, nnx.BatchNorm) and not module.use_running_average
    ]


def refuse_batch_norm(call: str, model: Any, policy: str) -> None:
    """Raise or warn if a batch normalisation of the model is in training mode.

    Raises:
        BatchNormError: one is, and the policy is "error".
    """
    names = batch_norms(model)
    if not names:
        return
    message = batch_norm_message(call, f"{names[0]} (BatchNorm)", "GroupNorm or LayerNorm, call model.eval()")
    if policy == "error":
        raise BatchNormError(message)
    warnings.warn(message, BatchNormWarning, stacklevel=5)


def _is_nnx(model: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def _nnx_variables(model: Any) -> list[Any]:
    """Every variable of an NNX module."""
    if not _is_nnx(model):
        return []
    nnx = sys.modules["flax.nnx"]
    return [variable for _, variable in nnx.to_flat_state(nnx.state(model))]
