"""A mutant: how it is made, and the checks that kill it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from gradreg_core import engine
from gradreg_core.calls import Calls
from gradreg_core.forward import Forward
from gradreg_core.outputs import OUTPUTS
from gradreg_torch.backend import TorchBackend
from gradreg_torch.eager import EagerBackend
from gradreg_torch.harness import TorchHarness

__all__ = ["MUTANTS", "Mutant", "harness_of", "mutant", "output", "patched", "per_sample"]

MUTANTS: "dict[str, Mutant]" = {}


@dataclass(frozen=True)
class Mutant:
    """A wrong backend.

    Args:
        name: the mistake, in a few words.
        killed_by: the names of checks that fail in the quick profile.
        make: a context that gives the harness of the wrong backend.
        exactly: whether no others fail. A mistake at the root fails more of them than are worth a list.
    """

    name: str
    killed_by: tuple[str, ...]
    make: Callable[[], AbstractContextManager[TorchHarness]]
    exactly: bool = True

    @property
    def alone(self) -> bool:
        """Whether one check kills it and no other, so that without that check it would live."""
        return self.exactly and len(self.killed_by) == 1


def harness_of(backend: TorchBackend | None = None, calls: type[Calls] = Calls) -> TorchHarness:
    """The PyTorch harness over another backend or calls, in the two modes that need no compiler."""
    harness = TorchHarness()
    harness.calls = calls(backend or TorchBackend(EagerBackend))
    harness.modes = ("eager", "func")
    return harness


@contextmanager
def patched(target: Any, name: str, replacement: Any) -> Iterator[TorchHarness]:
    """A harness of the PyTorch backend while `target.name` is replaced; the reference must not use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, replacement)
        yield harness_of()


@contextmanager
def output(name: str, *, pull: Any = None, push: Any = None) -> Iterator[TorchHarness]:
    """A harness while one output's maps are replaced: `pull(forward, w, pulled)` and `push(forward, t, pushed)`.

    The pullback and the push-forward are changed apart, though one may be made of the other.
    """
    plain = OUTPUTS[name]

    class Wrong(type(plain)):  # type: ignore[misc]
        def pull(self, forward: Forward, w: Any) -> Any:
            pulled = plain.pull(forward, w)
            return pulled if pull is None else pull(forward, w, pulled)

        def push(self, forward: Forward, t: Any) -> Any:
            pushed = plain.push(forward, t)
            return pushed if push is None else push(forward, t, pushed)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OUTPUTS, name, Wrong())
        yield harness_of()


def per_sample(change: Callable[..., Any]) -> AbstractContextManager[TorchHarness]:
    """A harness while `change(plain, term, forward)` stands in for the engine's values (B,) of a term."""
    plain = engine.per_sample
    return patched(engine, "per_sample", lambda term, forward: change(plain, term, forward))


def mutant(*killed_by: str, exactly: bool = True) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function that makes a mutant: it returns a harness, or a context that gives one."""

    def register(make: Callable[[], Any]) -> Callable[[], Any]:
        def context() -> AbstractContextManager[TorchHarness]:
            made = make()
            return nullcontext(made) if isinstance(made, TorchHarness) else made

        assert make.__name__ not in MUTANTS
        MUTANTS[make.__name__] = Mutant(make.__name__, killed_by, context, exactly)
        return make

    return register
