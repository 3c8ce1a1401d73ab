"""Lists the backends and the commands of all plugins, each with its problem, if it has one."""

import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Literal

from gradreg_core.plugins.hookspecs import SPEC_VERSIONS, BackendDescription, CommandDescription
from gradreg_core.plugins.loading import BACKENDS, COMMANDS, Description, PluginRecord, load_plugins
from gradreg_core.plugins.sources import installed

__all__ = [
    "DISABLE_VARIABLE",
    "BackendRecord",
    "CommandRecord",
    "Record",
    "Status",
    "backends",
    "commands",
    "missing_modules",
    "plugins_disabled",
]

DISABLE_VARIABLE = "GRADREG_DISABLE_PLUGINS"
Status = Literal["ok", "missing", "broken"]
"""``missing``: modules that it needs are not installed. ``broken``: it cannot be used, whatever is installed."""

_FIRST = ("numpy", "torch", "jax", "tensorflow")
"""The entry points at the head of the list of backends; entry points themselves have no order."""


@dataclass(frozen=True)
class Record(Generic[Description]):
    """One backend or command. A plugin that broke before it described any is listed by its entry point's name."""

    name: str
    status: Status
    reason: str
    """Why the status is not ``ok``, and what to do."""
    plugin: PluginRecord[Description]
    description: Description | None


BackendRecord = Record[BackendDescription]
CommandRecord = Record[CommandDescription]


def backends(*, refresh: bool = False) -> list[BackendRecord]:
    """The backends of all plugins: gradreg's own, then the others by distribution and entry point.

    A name that several plugins claim is broken for each of them: none may shadow another. Never raises because of
    a plugin.

    Args:
        refresh: search again, after something was installed; otherwise the first answer is kept.
    """
    if refresh:
        _refresh()
    return list(_backends(plugins_disabled()))


def commands(*, refresh: bool = False) -> list[CommandRecord]:
    """The commands of all plugins, in the same order.

    A name that several plugins claim belongs to the first of them, and is broken for the others: no plugin can take a
    command of gradreg away. Never raises because of a plugin.

    Args:
        refresh: see :func:`backends`.
    """
    if refresh:
        _refresh()
    return list(_commands(plugins_disabled()))


def missing_modules(description: BackendDescription) -> list[str]:
    """The required modules that are not installed, found without importing any."""
    return [module for module in description.modules if not installed(module)]


def plugins_disabled() -> bool:
    """Whether the environment variable GRADREG_DISABLE_PLUGINS leaves gradreg's own plugins only."""
    return os.environ.get(DISABLE_VARIABLE, "").strip().lower() in {"1", "true", "yes"}


def _refresh() -> None:
    importlib.invalidate_caches()
    _backends.cache_clear()
    _commands.cache_clear()


@lru_cache(maxsize=2)
def _backends(builtin_only: bool) -> tuple[BackendRecord, ...]:
    plugins = load_plugins(BACKENDS, builtin_only=builtin_only)
    plugins.sort(key=_rank)
    claims: dict[str, list[PluginRecord[BackendDescription]]] = {}
    for plugin in plugins:
        for description in plugin.descriptions:
            if description.spec_version in SPEC_VERSIONS:
                claims.setdefault(description.name, []).append(plugin)
    records: list[BackendRecord] = []
    for plugin in plugins:
        if plugin.reason:
            records.append(Record(plugin.entry_point, "broken", plugin.reason, plugin, None))
        for description in plugin.descriptions:
            status, reason = _judge(plugin, description, claims.get(description.name, []))
            records.append(Record(description.name, status, reason, plugin, description))
    return tuple(records)


def _rank(plugin: PluginRecord[BackendDescription]) -> int:
    if not plugin.builtin:
        return len(_FIRST) + 1
    return _FIRST.index(plugin.entry_point) if plugin.entry_point in _FIRST else len(_FIRST)


def _judge(
    plugin: PluginRecord[BackendDescription],
    description: BackendDescription,
    claims: Sequence[PluginRecord[BackendDescription]],
) -> tuple[Status, str]:
    """The status of a backend, and the reason for it."""
    if description.spec_version not in SPEC_VERSIONS:
        known = ", ".join(map(str, SPEC_VERSIONS))
        older = "gradreg" if description.spec_version > max(SPEC_VERSIONS) else plugin.distribution
        return "broken", (
            f"backend {description.name!r} was written for spec_version {description.spec_version}, this gradreg knows "
            f"{known}; upgrade {older}"
        )
    if len(claims) > 1:
        return "broken", (
            f"duplicate name: {description.name!r} is claimed by {' and by '.join(map(str, claims))}; uninstall one of "
            f"them, or set {DISABLE_VARIABLE}=1 to use the built-in backends only"
        )
    if missing := missing_modules(description):
        return "missing", f"not installed: {', '.join(map(repr, missing))}; install with: {description.install}"
    return "ok", ""


@lru_cache(maxsize=2)
def _commands(builtin_only: bool) -> tuple[CommandRecord, ...]:
    owners: dict[str, PluginRecord[CommandDescription]] = {}
    records: list[CommandRecord] = []
    for plugin in load_plugins(COMMANDS, builtin_only=builtin_only):
        if plugin.reason:
            records.append(Record(plugin.entry_point, "broken", plugin.reason, plugin, None))
        for description in plugin.descriptions:
            name = description.name
            if name in owners:
                reason = f"duplicate name: {name!r} is a command of {owners[name]}; uninstall {plugin.distribution}"
                records.append(Record(name, "broken", reason, plugin, description))
            else:
                owners[name] = plugin
                records.append(Record(name, "ok", "", plugin, description))
    return tuple(records)
