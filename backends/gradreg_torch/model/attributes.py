"""State that modules keep outside their buffers: counters, arrays, containers and generators in plain attributes."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

__all__ = ["Kept", "attributes_kept"]

_LONGEST = 1000
"""Larger containers hold data, and stay as they are."""
_OF_MODULES = frozenset(nn.Module().__dict__)
_Undo = tuple[Any, Any]
"""(the holder, its contents)."""


class Kept:
    """The attributes of modules as they were when each was first seen."""

    def __init__(self) -> None:
        self._seen: set[nn.Module] = set()
        self._before: list[_Undo] = []

    def see(self, module: nn.Module) -> None:
        """Keep what a module of a user's class holds: PyTorch's own classes have no state but buffers."""
        if module in self._seen:
            return
        self._seen.add(module)
        if type(module).__module__.startswith("torch."):
            return
        own = {name: value for name, value in module.__dict__.items() if name not in _OF_MODULES}
        self._before.append((module, own))
        for value in own.values():
            content = _content(value)
            if content is not None:
                self._before.append((value, content))

    def put_back(self) -> None:
        """Restore all attributes."""
        for holder, before in self._before:
            if isinstance(holder, nn.Module):
                now = holder.__dict__
                for name in [name for name in now if name not in _OF_MODULES and name not in before]:
                    del now[name]
                now.update(before)
            else:
                _put_back(holder, before)


def _content(value: Any) -> Any:
    """The contents of a container or the state of a generator; None for other values."""
    if type(value) in (list, dict, set) and len(value) <= _LONGEST:
        return value.copy()
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state()
    return value.getstate() if isinstance(value, random.Random) else None


def _put_back(holder: Any, content: Any) -> None:
    if isinstance(holder, list):
        holder[:] = content
    elif isinstance(holder, dict | set):
        holder.clear()
        holder.update(content)
    elif isinstance(holder, np.random.Generator):
        holder.bit_generator.state = content
    elif isinstance(holder, random.Random):
        holder.setstate(content)
    else:
        holder.set_state(content)


@contextmanager
def attributes_kept(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A context in which modules may change their plain attributes; it restores them afterwards."""
    kept = Kept()
    for module in modules:
        kept.see(module)
    try:
        yield
    finally:
        kept.put_back()
