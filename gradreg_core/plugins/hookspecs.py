"""What a backend plugin implements: one pluggy hook that describes backends without importing their frameworks.

A plugin is a light module, named by an entry point of the group ``gradreg.backends``:

    from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl

    @hookimpl
    def gradreg_backends():
        return [
            BackendDescription(
                name="acme",
                factory="acme_gradreg.backend:AcmeBackend",
                modules=("acme",),
                array_modules=("acme",),
                spec_version=1,
                install="pip install acme-gradreg",
            )
        ]
"""

import re
from dataclasses import dataclass

import pluggy

from gradreg_core.errors import PluginError

__all__ = ["PROJECT", "SPEC_VERSIONS", "BackendDescription", "gradreg_backends", "hookimpl", "hookspec"]

PROJECT = "gradreg"
SPEC_VERSIONS = (1,)
"""The versions of the backend protocol (:mod:`gradreg_core.backend`) that this gradreg can use."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of its name."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_FACTORY = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, kw_only=True)
class BackendDescription:
    """A backend, described in plain values, so that listing backends imports no framework.

    Args:
        name: by which it is asked for: lower-case letters, digits, ``-`` and ``_``.
        factory: ``"module:callable"``; called without arguments it returns a :class:`gradreg_core.backend.Backend`,
            or an object that has `loss`, `penalty`, `measure` and `check` itself.
        modules: top-level modules that must be installed, such as ``("torch",)``.
        array_modules: top-level modules that its array types are defined in, such as ``("jax", "jaxlib")``.
        capabilities: see :class:`gradreg_core.backend.Backend`.
        spec_version: the version of the backend protocol that it was written for; one of `SPEC_VERSIONS`.
        install: the command that installs what it needs, such as ``pip install "gradreg[torch]"``.
        harness: ``"module:callable"``, what the conformance kit drives the backend by; empty if there is none.

    Raises:
        PluginError: a value is not as said here.
    """

    name: str
    factory: str
    modules: tuple[str, ...] = ()
    array_modules: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    spec_version: int
    install: str
    harness: str = ""

    def __post_init__(self) -> None:
        self._match("name", _NAME, "lower-case letters, digits, '-' and '_', starting with a letter, such as 'torch'")
        self._match("factory", _FACTORY, "'module:callable', such as 'acme_gradreg.backend:AcmeBackend'")
        if self.harness:
            self._match("harness", _FACTORY, "'module:callable', such as 'acme_gradreg.harness:AcmeHarness'")
        self._strings("modules", "top-level module names, such as ('torch',)")
        self._strings("array_modules", "top-level module names, such as ('jax', 'jaxlib')")
        self._strings("capabilities", "names, such as ('named_activations',)")
        if isinstance(self.spec_version, bool) or not isinstance(self.spec_version, int):
            raise self._error("spec_version", f"an integer such as {SPEC_VERSIONS[-1]}")
        if not isinstance(self.install, str) or not self.install.strip():
            raise self._error("install", "a command, such as 'pip install acme-gradreg'")

    def _match(self, field: str, pattern: re.Pattern[str], expected: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._error(field, expected)

    def _strings(self, field: str, expected: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, tuple | list) or not all(isinstance(e, str) and e.isidentifier() for e in value):
            raise self._error(field, f"a tuple of {expected}")
        object.__setattr__(self, field, tuple(value))

    def _error(self, field: str, expected: str) -> PluginError:
        return PluginError(f"BackendDescription: {field} must be {expected}; got {getattr(self, field)!r}.")


@hookspec
def gradreg_backends() -> list[BackendDescription]:  # type: ignore[empty-body]
    """Describe the backends that this plugin brings. Called once; must not import a framework."""
