"""Finds the backend plugins, and keeps one record for each entry point, broken or not.

pluggy's own loader stops at the first broken plugin and drops a second plugin of the same name without a word, so the
loop is written out here, with a plugin manager for each entry point: what one plugin does wrong stays with it.
"""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from typing import Any, Literal

import pluggy

from gradreg_core.errors import PluginError
from gradreg_core.plugins import hookspecs
from gradreg_core.plugins.hookspecs import PROJECT, SPEC_VERSIONS, BackendDescription

__all__ = [
    "DISABLE_VARIABLE",
    "GROUP",
    "BackendRecord",
    "PluginRecord",
    "Status",
    "backends",
    "discover",
    "missing_modules",
    "plugins_disabled",
]

GROUP = "gradreg.backends"
DISABLE_VARIABLE = "GRADREG_DISABLE_PLUGINS"
Status = Literal["ok", "missing", "broken"]
"""``missing``: modules that it needs are not installed. ``broken``: it cannot be used, whatever is installed."""

_BUILTIN = ("numpy", "torch", "jax", "tensorflow")


@dataclass(frozen=True)
class PluginRecord:
    """One entry point of the group ``gradreg.backends``, and what became of it."""

    entry_point: str
    distribution: str
    version: str | None
    status: Status
    reason: str = ""
    """Why the status is not ``ok``."""
    descriptions: tuple[BackendDescription, ...] = ()
    error: BaseException | None = field(default=None, repr=False, compare=False)
    """The exception behind a broken plugin."""

    def __str__(self) -> str:
        return f"{self.distribution} {self.version or '(not installed)'} (entry point {self.entry_point!r})"


@dataclass(frozen=True)
class BackendRecord:
    """One backend of one plugin. A plugin that broke before it described any is listed by its entry point's name."""

    name: str
    status: Status
    reason: str
    plugin: PluginRecord
    description: BackendDescription | None


def discover(*, refresh: bool = False) -> list[PluginRecord]:
    """The plugins, built-in ones first, then by distribution and entry point. Never raises for what a plugin does.

    Args:
        refresh: look again, after something was installed; otherwise the first answer is kept.
    """
    if refresh:
        importlib.invalidate_caches()
        _discover.cache_clear()
        _backends.cache_clear()
    return list(_discover(plugins_disabled()))


def backends(*, refresh: bool = False) -> list[BackendRecord]:
    """The backends of all plugins, in the order of :func:`discover`.

    A name that several plugins claim is broken for each of them: none may shadow another.

    Args:
        refresh: see :func:`discover`.
    """
    if refresh:
        discover(refresh=True)
    return list(_backends(plugins_disabled()))


def missing_modules(description: BackendDescription) -> list[str]:
    """The required modules that are not installed, found without importing any."""
    return [module for module in description.modules if not _installed(module)]


def plugins_disabled() -> bool:
    """Whether the environment variable GRADREG_DISABLE_PLUGINS leaves the built-in backends only."""
    return os.environ.get(DISABLE_VARIABLE, "").strip().lower() in {"1", "true", "yes"}


@lru_cache(maxsize=2)
def _backends(builtin_only: bool) -> tuple[BackendRecord, ...]:
    plugins = _discover(builtin_only)
    claims: dict[str, list[PluginRecord]] = {}
    for plugin in plugins:
        for description in plugin.descriptions if plugin.status != "broken" else ():
            claims.setdefault(description.name, []).append(plugin)
    records = []
    for plugin in plugins:
        if not plugin.descriptions and plugin.status == "broken":
            records.append(BackendRecord(plugin.entry_point, "broken", plugin.reason, plugin, None))
        records += [_backend(plugin, each, claims.get(each.name, [])) for each in plugin.descriptions]
    return tuple(records)


def _backend(plugin: PluginRecord, description: BackendDescription, claims: Sequence[PluginRecord]) -> BackendRecord:
    status, reason = plugin.status, plugin.reason
    if status != "broken":
        missing = missing_modules(description)
        status, reason = ("missing", _lacks(description, missing)) if missing else ("ok", "")
        if len(claims) > 1:
            claimants = " and by ".join(map(str, claims))
            status, reason = "broken", f"duplicate name: {description.name!r} is claimed by {claimants}"
    return BackendRecord(description.name, status, reason, plugin, description)


def _lacks(description: BackendDescription, missing: Sequence[str]) -> str:
    modules = ", ".join(map(repr, missing))
    return f"not installed: {modules}; install with: {description.install}"


def _installed(module: str) -> bool:
    if sys.modules.get(module) is not None:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a finder that refuses, or None in sys.modules
        return False


@lru_cache(maxsize=2)
def _discover(builtin_only: bool) -> tuple[PluginRecord, ...]:
    found = [_Source.of(each) for each in metadata.entry_points(group=GROUP)]
    builtin = [each for each in found if each.builtin] or _uninstalled()
    builtin.sort(key=lambda each: _BUILTIN.index(each.name) if each.name in _BUILTIN else len(_BUILTIN))
    others = sorted((each for each in found if not each.builtin), key=lambda each: (each.distribution, each.name))
    return tuple(_examine(each) for each in (builtin if builtin_only else builtin + others))


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
    def name(self) -> str:
        return self.entry_point.name

    @property
    def builtin(self) -> bool:
        return re.sub(r"[-_.]+", "-", self.distribution).lower() == PROJECT


def _uninstalled() -> list[_Source]:
    """The built-in plugins of a checkout that is on the path but not installed, so that it has no entry points."""
    names = [name for name in _BUILTIN if _installed(f"gradreg_{name}")]
    return [_Source(metadata.EntryPoint(name, f"gradreg_{name}.plugin", GROUP), PROJECT, None) for name in names]


def _examine(source: _Source) -> PluginRecord:
    """Load, register, ask: the record of one entry point."""

    def record(status: Status, reason: str = "", **found: Any) -> PluginRecord:
        return PluginRecord(source.name, source.distribution, source.version, status, reason, **found)

    try:
        plugin = source.entry_point.load()
    except (Exception, SystemExit) as error:
        return record("broken", f"importing {source.entry_point.value!r} failed: {_describe(error)}", error=error)
    try:
        descriptions = _ask(plugin, source.name)
    except pluggy.PluginValidationError as error:
        return record("broken", f"{_line(error)}; the hooks are: gradreg_backends", error=error)
    except PluginError as error:
        return record("broken", _line(error), error=error)
    except (Exception, SystemExit) as error:
        return record("broken", f"its hook gradreg_backends failed: {_describe(error)}", error=error)
    for each in descriptions:
        if each.spec_version not in SPEC_VERSIONS:
            known = ", ".join(map(str, SPEC_VERSIONS))
            older = "gradreg" if each.spec_version > max(SPEC_VERSIONS) else source.distribution
            reason = (
                f"backend {each.name!r} was written for spec_version {each.spec_version}, this gradreg knows {known}; "
                f"upgrade {older}"
            )
            return record("broken", reason, descriptions=descriptions)
    lacks = [_lacks(each, missing) for each in descriptions if (missing := missing_modules(each))]
    return record("missing" if lacks else "ok", "; ".join(lacks), descriptions=descriptions)


def _ask(plugin: object, name: str) -> tuple[BackendDescription, ...]:
    """The descriptions that the plugin's hooks return, in the order that they are defined in."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(plugin, name=name)
    manager.check_pending()
    if not manager.hook.gradreg_backends.get_hookimpls():
        raise PluginError(
            "it has no hook gradreg_backends; mark the function with gradreg_core.plugins.hookspecs.hookimpl"
        )
    descriptions: list[BackendDescription] = []
    for result in reversed(manager.hook.gradreg_backends()):
        if not isinstance(result, Iterable) or not all(isinstance(each, BackendDescription) for each in result):
            raise PluginError(f"its hook gradreg_backends must return a list of BackendDescription, got {result!r}")
        descriptions += result
    return tuple(descriptions)


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {_line(error)}"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()).removesuffix(".")
