"""Loads the plugins of one hook, and keeps a record of each entry point, broken or not.

pluggy's own loader stops at the first broken plugin and drops a second plugin of the same name without a word, so the
loop is written out here, with a plugin manager for each entry point: what one plugin does wrong stays with it.
"""

import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Generic, TypeVar

import pluggy

from gradreg_core.errors import PluginError
from gradreg_core.plugins import hookspecs
from gradreg_core.plugins.hookspecs import PROJECT, BackendDescription, CommandDescription

__all__ = ["BACKENDS", "COMMANDS", "Hook", "PluginRecord", "installed", "load_plugins"]

Description = TypeVar("Description", BackendDescription, CommandDescription)


@dataclass(frozen=True)
class Hook(Generic[Description]):
    """A hook, the group of entry points that lead to its implementations, and what they return a list of."""

    name: str
    group: str
    description: type[Description]


BACKENDS = Hook("gradreg_backends", "gradreg.backends", BackendDescription)
COMMANDS = Hook("gradreg_commands", "gradreg.commands", CommandDescription)


@dataclass(frozen=True)
class PluginRecord(Generic[Description]):
    """One entry point, and what became of it."""

    entry_point: str
    distribution: str
    version: str | None
    builtin: bool
    descriptions: tuple[Description, ...] = ()
    """Of what it brings; empty if it is broken."""
    reason: str = ""
    """Why it is broken; empty if it is not."""
    error: BaseException | None = field(default=None, repr=False, compare=False)
    """The exception behind a broken plugin."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version or '(not installed)'} (entry point {self.entry_point!r})"


def load_plugins(hook: Hook[Description], *, builtin_only: bool = False) -> list[PluginRecord[Description]]:
    """The plugins of a hook: gradreg's own, then the others by distribution and entry point.

    Never raises for what a plugin does.

    Args:
        hook: such as `BACKENDS`.
        builtin_only: leave out those of other distributions.
    """
    sources = [_Source.of(entry_point) for entry_point in metadata.entry_points(group=hook.group)]
    builtin = [source for source in sources if source.builtin] or _checkout(hook.group)
    others = [] if builtin_only else [source for source in sources if not source.builtin]
    others.sort(key=lambda source: (source.distribution, source.entry_point.name))
    return [_load(source, hook) for source in builtin + others]


def installed(module: str) -> bool:
    """Whether a top-level module is there, found without importing it."""
    if sys.modules.get(module) is not None:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a finder that refuses, or None in sys.modules
        return False


@dataclass(frozen=True)
class _Source:
    """An entry point and the distribution that brought it."""

    entry_point: metadata.EntryPoint
    distribution: str
    version: str | None

    @classmethod
    def of(cls, entry_point: metadata.EntryPoint) -> "_Source":
        try:
            distribution = entry_point.dist
            assert distribution is not None
            return cls(entry_point, str(distribution.name), str(distribution.version))
        except Exception:  # metadata without a name or a version
            return cls(entry_point, "unknown distribution", None)

    @property
    def builtin(self) -> bool:
        return re.sub(r"[-_.]+", "-", self.distribution).lower() == PROJECT


def _checkout(group: str) -> list[_Source]:
    """The plugins in the pyproject.toml of a checkout that is on the path, but not installed."""
    file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        return []
    targets = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["entry-points"].get(group, {})
    entry_points = [metadata.EntryPoint(name, target, group) for name, target in targets.items()]
    return [_Source(point, PROJECT, None) for point in entry_points if installed(point.module.partition(".")[0])]


def _load(source: _Source, hook: Hook[Description]) -> PluginRecord[Description]:
    """Import, register, ask: the record of one entry point."""
    reason, error = "", None
    descriptions: tuple[Description, ...] = ()
    try:
        plugin = source.entry_point.load()
    except (Exception, SystemExit) as failure:
        reason, error = f"importing {source.entry_point.value!r} failed: {_describe(failure)}", failure
    else:
        try:
            descriptions = _ask(plugin, source.entry_point.name, hook)
        except pluggy.PluginValidationError as failure:
            reason, error = f"{_line(failure)}; the hooks are: {BACKENDS.name}, {COMMANDS.name}", failure
        except PluginError as failure:
            reason, error = _line(failure), failure
        except (Exception, SystemExit) as failure:
            reason, error = f"its hook {hook.name} failed: {_describe(failure)}", failure
    name = source.entry_point.name
    return PluginRecord(name, source.distribution, source.version, source.builtin, descriptions, reason, error)


def _ask(plugin: object, name: str, hook: Hook[Description]) -> tuple[Description, ...]:
    """The descriptions that the plugin's hooks return, in the order that they are defined in."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    manager.check_pending()
    caller = getattr(manager.hook, hook.name)
    if not caller.get_hookimpls():
        raise PluginError(f"it has no hook {hook.name}; mark the function with {hookspecs.__name__}.hookimpl")
    descriptions: list[Description] = []
    for result in reversed(caller()):
        if not isinstance(result, Iterable) or not all(isinstance(value, hook.description) for value in result):
            raise PluginError(f"its hook {hook.name} must return a list of {hook.description.__name__}, got {result!r}")
        descriptions += result
    return tuple(descriptions)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_line(error)}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).removesuffix(".")
