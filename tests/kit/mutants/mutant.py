"""A mutant: how it is made, and the checks that kill it."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from gradreg_core.calls import Calls
from gradreg_torch.backend import TorchBackend
from gradreg_torch.harness import TorchHarness

__all__ = ["MUTANTS", "Mutant", "harness_of", "mutant", "patched"]

MUTANTS: "dict[str, Mutant]" = {}


@dataclass(frozen=True)
class Mutant:
    """A wrong backend.

    Args:
        name: what is wrong, in a few words.
        killed_by: the names of the checks that fail in the quick profile, every check run.
        make: a context that gives the harness of the wrong backend.
        exactly: whether no others fail. A mistake at the root fails more of them than are worth a list.
    """

    name: str
    killed_by: tuple[str, ...]
    make: Callable[[], AbstractContextManager[TorchHarness]]
    exactly: bool = True


def harness_of(backend: TorchBackend | None = None, calls: type[Calls] = Calls) -> TorchHarness:
    """The PyTorch harness over another backend or calls, in the two modes that need no compiler."""
    harness = TorchHarness()
    harness.calls = calls(backend or TorchBackend())
    harness.modes = ("eager", "func")
    return harness


@contextmanager
def patched(target: Any, name: str, replacement: Any) -> Iterator[TorchHarness]:
    """A harness of the PyTorch backend while `target.name` is replaced; the reference must not use it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(target, name, replacement)
        yield harness_of()


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
