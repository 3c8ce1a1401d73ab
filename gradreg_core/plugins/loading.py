"""Loads the plugins of one hook, and keeps a record of each entry point, broken or not.

pluggy's own loader stops at the first broken plugin and silently drops a second plugin of the same name, so the loop
is written out here, with a plugin manager per entry point: the errors of one plugin do not affect the others.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pluggy

from gradreg_core.errors import PluginError
from gradreg_core.plugins import hookspecs
from gradreg_core.plugins.hookspecs import PROJECT, BackendDescription, CommandDescription
from gradreg_core.plugins.limited import SECONDS_VARIABLE, LateError, limited, seconds_allowed
from gradreg_core.plugins.sources import Source, sources

__all__ = ["BACKENDS", "COMMANDS", "HANGING", "Hook", "PluginRecord", "load_plugins"]

Description = TypeVar("Description", BackendDescription, CommandDescription)


around: Callable[[], AbstractContextManager[Any]] = nullcontext
"""The context in which a third party's plugin is loaded; a command sets it, to redirect the output of plugins."""
HANGING: set[str] = set()
"""The targets of entry points, such as "acme.plugin", that did not finish loading: they are not tried again."""


@dataclass(frozen=True)
class Hook(Generic[Description]):
    """A hook, the group of entry points of its implementations, and the type that they return a list of."""

    name: str
    group: str
    description: type[Description]


BACKENDS = Hook("gradreg_backends", "gradreg.backends", BackendDescription)
COMMANDS = Hook("gradreg_commands", "gradreg.commands", CommandDescription)


@dataclass(frozen=True)
class PluginRecord(Generic[Description]):
    """One entry point, and the result of loading it."""

    entry_point: str
    distribution: str
    version: str | None
    builtin: bool
    descriptions: tuple[Description, ...] = ()
    """The backends or commands that it describes; empty if it is broken."""
    reason: str = ""
    """Why it is broken; empty if it is not."""
    error: BaseException | None = field(default=None, repr=False, compare=False)
    """The exception behind a broken plugin."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version or '(not installed)'} (entry point {self.entry_point!r})"


def load_plugins(hook: Hook[Description], *, builtin_only: bool = False) -> list[PluginRecord[Description]]:
    """The plugins of a hook: gradreg's own, then the others by distribution and entry point.

    Never raises because of a plugin.

    Args:
        hook: such as `BACKENDS`.
        builtin_only: leave out the plugins of other distributions.
    """
    both: tuple[list[Source], list[Source]] = sources(hook.group)
    chosen = both[0] if builtin_only else both[0] + both[1]
    return [_load(source, hook) for source in chosen]


def _load(source: Source, hook: Hook[Description]) -> PluginRecord[Description]:
    """Import, register and ask one entry point; return its record. A third party's has a limited time."""
    target, name = source.entry_point.value, source.entry_point.name
    reason = ""
    error: BaseException | None = None
    descriptions: tuple[Description, ...] = ()
    try:
        if source.builtin:
            descriptions = _described(source, hook)
        else:
            if target in HANGING:
                raise LateError
            with around():
                descriptions = limited(lambda: _described(source, hook), seconds_allowed())
    except LateError as late:
        HANGING.add(target)
        reason, error = (
            f"loading {target!r} did not end within {seconds_allowed():g} seconds; uninstall {source.distribution}, or "
            f"give it more with {SECONDS_VARIABLE}",
            late,
        )
    except _ImportFailureError as failure:
        reason, error = f"importing {target!r} failed: {_describe(failure.cause)}", failure.cause
    except pluggy.PluginValidationError as failure:
        reason, error = f"{_line(failure)}; the hooks are: {BACKENDS.name}, {COMMANDS.name}", failure
    except PluginError as failure:
        reason, error = _line(failure), failure
    except BaseException as failure:
        if source.builtin and isinstance(failure, KeyboardInterrupt):  # this thread was interrupted, by its user
            raise
        reason, error = f"its hook {hook.name} failed: {_describe(failure)}", failure
    return PluginRecord(name, source.distribution, source.version, source.builtin, descriptions, reason, error)


class _ImportFailureError(Exception):
    """Importing a plugin raised `cause`, of whatever kind."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(cause)
        self.cause = cause


def _described(source: Source, hook: Hook[Description]) -> tuple[Description, ...]:
    try:
        plugin = source.entry_point.load()
    except BaseException as error:
        if source.builtin and isinstance(error, KeyboardInterrupt):
            raise
        raise _ImportFailureError(error) from error
    return _ask(plugin, source.entry_point.name, hook)


def _ask(plugin: object, name: str, hook: Hook[Description]) -> tuple[Description, ...]:
    """The descriptions that the plugin's hooks return, in the order of their definition."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    manager.check_pending()
    caller = getattr(manager.hook, hook.name)
    if all(implementation.hookwrapper or implementation.wrapper for implementation in caller.get_hookimpls()):
        raise PluginError(f"it has no hook {hook.name}; mark the function with {hookspecs.__name__}.hookimpl")
    descriptions: list[Description] = []
    for result in reversed(caller()):
        values = list(result) if isinstance(result, Iterable) else [result]  # a hook may be a generator
        if not isinstance(result, Iterable) or not all(isinstance(value, hook.description) for value in values):
            raise PluginError(f"its hook {hook.name} must return a list of {hook.description.__name__}, got {result!r}")
        descriptions += values
    return tuple(descriptions)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_line(error)}".removesuffix(": ")


def _line(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as second:  # its __str__ is the plugin's too
        text = f"(its message raises {type(second).__name__})"
    return " ".join(text.split()).removesuffix(".")
