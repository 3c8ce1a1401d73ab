"""Models with state: a pure function takes the state and returns its changes.

No model library is imported here: a user who passes its model has imported it.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

from gradreg_core.passes import Apply
from gradreg_core.primitives import Model
from gradreg_jax import nnx_modules
from gradreg_jax.hidden import Attributes, KerasVariables, State, refuse_haiku_state, walk

__all__ = [
    "Keep",
    "Pure",
    "Stateful",
    "functional",
    "holds_parameters",
    "parameters",
    "part_names",
    "repeatable",
    "without_state_changes",
]

Pure = Callable[[Apply, Any], tuple[tuple[Any, Any], Any]]
Keep = Callable[[Any], None]

_frozen: ContextVar[bool] = ContextVar("gradreg_frozen", default=False)


class Stateful:
    """A pure function with state as a model: ``fn(x, state) -> (outputs, state)``, for example for batch statistics.

    Create it inside the differentiated function, and return its `state` from there as auxiliary output::

        model = Stateful(lambda x, state: net.apply({"params": p, **state}, x, mutable=["batch_stats"]), state)
        total, parts = gradreg.loss(model, x, y, reg, step=step)
        return total, model.state

    Args:
        fn: the function. With :class:`gradreg_core.inputs.Inputs` it is called as ``fn(*args, state, **kwargs)``.
        state: a pytree for the first call; each later call gets the state returned by the previous one.
    """

    def __init__(self, fn: Callable[..., tuple[Any, Any]], state: Any) -> None:
        self.fn = fn
        self.state = state

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs; updates the state."""
        outputs, state = self.fn(*args, self.state, **kwargs)
        if not _frozen.get():
            self.state = state
        return outputs


class _Threaded(State):
    """The state of a `Stateful`."""

    def __init__(self, model: Stateful) -> None:
        self.model, self.before = model, model.state
        self.after = model.state

    @contextmanager
    def scoped(self) -> Iterator[Callable[[], Any]]:
        yield lambda: self.after

    def stand_in(self, *args: Any, **kwargs: Any) -> Any:
        outputs, self.after = self.model.fn(*args, self.before, **kwargs)
        return outputs

    def keep(self, changes: Any) -> None:
        self.model.state = changes


def functional(model: Model) -> tuple[Pure, Keep]:
    """The model as a pure function, and a function that applies state changes to the model.

    Returns:
        pure(apply, x) -> ((outputs, what the model returned), changes), where apply(model, x) calls the model once; and
        keep(changes).

    Raises:
        InputError: the call is inside a Haiku transform with state.
    """
    refuse_haiku_state()
    states, stand_in = _states(model)

    def pure(apply: Apply, x: Any) -> tuple[tuple[Any, Any], Any]:
        with ExitStack() as stack:
            changes = [stack.enter_context(state.scoped()) for state in states]
            results = apply(stand_in(), x)
            return results, [of_state() for of_state in changes]

    def keep(changes: Any) -> None:
        if not _frozen.get():
            for state, changed in zip(states, changes, strict=True):
                state.keep(changed)

    return pure, keep


def _states(model: Model) -> tuple[list[State], Callable[[], Any]]:
    """All state that a call of the model may change, and a function that returns the callable in its place."""
    states: list[State] = [KerasVariables()] if KerasVariables.in_use() else []
    if nnx_modules.is_module(model):
        module = nnx_modules.ModuleState([model], in_place=False)
        return [*states, module], lambda: module.stand_ins[0]
    threaded = [_Threaded(model)] if isinstance(model, Stateful) else []
    modules, holders = walk(model.fn if isinstance(model, Stateful) else model, nnx_modules.is_module)
    if holders:
        states.append(Attributes(holders))
    if modules:
        states.append(nnx_modules.ModuleState(modules, in_place=True))
    return [*states, *threaded], lambda: threaded[0].stand_in if threaded else model


def part_names(model: Model) -> list[str]:
    """The names of the parts of the NNX modules in the model."""
    fn = model.fn if isinstance(model, Stateful) else model
    return nnx_modules.part_names(walk(fn, nnx_modules.is_module)[0])


def without_state_changes(model: Model) -> Callable[..., Any]:
    """The model as a callable that does not change its state."""
    pure, _ = functional(model)

    def call(*args: Any, **kwargs: Any) -> Any:
        (outputs, _), _ = pure(lambda stand_in, x: (stand_in(*args, **kwargs), None), None)
        return outputs

    return call


@contextmanager
def repeatable(model: Any) -> Iterator[None]:
    """A context that restores the model's state, random counters included."""
    with ExitStack() as stack:
        for state in _states(model)[0]:
            if isinstance(state, nnx_modules.ModuleState):
                stack.enter_context(state.restored())
            elif isinstance(state, KerasVariables):
                stack.enter_context(state.scoped())
        token = _frozen.set(True)
        try:
            yield
        finally:
            _frozen.reset(token)


def parameters(model: Any) -> Any | None:
    """The parameters of an NNX or Equinox module as a pytree; None for other models."""
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    if nnx is not None and isinstance(model, nnx.Module):
        return nnx_modules.parameters(model)
    return model if equinox is not None and isinstance(model, equinox.Module) else None


def holds_parameters(value: Any) -> bool:
    """Whether the value is an NNX variable or an Equinox module."""
    nnx, equinox = sys.modules.get("flax.nnx"), sys.modules.get("equinox")
    return (nnx is not None and isinstance(value, nnx.Variable)) or (
        equinox is not None and isinstance(value, equinox.Module)
    )
