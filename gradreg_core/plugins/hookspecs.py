"""The two pluggy hooks of a plugin, which describe backends and commands without importing what they need.

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

Commands are described by a module with the hook ``gradreg_commands``, named by an entry point of ``gradreg.commands``.
One module may have both hooks, and an entry point in each group.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

import pluggy

from gradreg_core.errors import PluginError

__all__ = [
    "COMPONENTS",
    "PROJECT",
    "SPEC_VERSIONS",
    "BackendDescription",
    "CommandDescription",
    "Component",
    "gradreg_backends",
    "gradreg_commands",
    "hookimpl",
    "hookspec",
]

PROJECT = "gradreg"
SPEC_VERSIONS = (1,)
"""The versions of the backend protocol (:mod:`gradreg_core.backend`) that this gradreg can use."""
Component = Literal["benchmark", "devices", "harness", "sweep", "trainer", "validation"]
"""A field of :class:`BackendDescription` that :func:`gradreg_core.plugins.dispatch.load_component` loads."""
COMPONENTS: tuple[Component, ...] = get_args(Component)

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook with its name."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*")
_NAME_RULE = "lower-case letters, digits, '-' and '_', starting with a letter"
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class _Description:
    """The checks that both descriptions share."""

    def _match(self, field: str, pattern: re.Pattern[str], expected: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise self._error(field, expected)

    def _text(self, field: str, expected: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, str) or not value.strip() or "\n" in value:
            raise self._error(field, expected)

    def _names(self, field: str, expected: str) -> None:
        value = getattr(self, field)
        if not isinstance(value, tuple | list) or not all(isinstance(n, str) and n.isidentifier() for n in value):
            raise self._error(field, f"a tuple of {expected}")
        object.__setattr__(self, field, tuple(value))

    def _error(self, field: str, expected: str) -> PluginError:
        return PluginError(f"{type(self).__name__}: {field} must be {expected}; got {getattr(self, field)!r}.")


@dataclass(frozen=True, kw_only=True)
class BackendDescription(_Description):
    """A backend, described in plain values, so that listing backends imports no framework.

    The last six fields name the backend's other components, each as ``"module:attribute"``, or are empty. A backend
    with only a harness can be tested, validated, timed and trained: the rest is built from the harness, but is slower.

    Args:
        name: the backend's name: lower-case letters, digits, ``-`` and ``_``.
        title: the framework's name as pages write it, such as ``"PyTorch"``; without one, `name`.
        factory: ``"module:callable"``; called without arguments it returns a :class:`gradreg_core.backend.Backend`,
            or an object that has `loss`, `penalty`, `measure` and `check` itself.
        modules: top-level modules that must be installed, such as ``("torch",)``.
        array_modules: top-level modules that its array types are defined in, such as ``("jax", "jaxlib")``.
        model_modules: top-level modules whose models belong to it, such as ``("flax", "jax")``; without them,
            `array_modules`.
        capabilities: promises beyond the primitives, which the conformance kit tests: ``"named_activations"``
            (``at="layer3"`` works), ``"host_checks"`` (`values_if_free` reads arrays on the CPU),
            ``"batched_pullback"`` (`pull_rows` pulls several rows at once) and ``"traced_branch"`` (a traced condition
            skips the branch that is not taken).
        spec_version: the version of the backend protocol that it was written for; one of `SPEC_VERSIONS`.
        install: the command that installs what it needs, such as ``pip install "gradreg[torch]"``.
        harness: drives the backend for the conformance kit, a :class:`gradreg_conformance.harness.Harness`.
        devices: a function without arguments that lists the devices as strings, for ``gradreg doctor``.
        trainer: trains the experiments, a :class:`gradreg_experiments.trainers.Trainer`.
        validation: inspects a model for ``gradreg validate``, a :class:`gradreg_validation.models.Side`.
        benchmark: the steps that ``gradreg bench`` times, a :class:`gradreg_bench.steps.Steps`.
        sweep: an instance of :class:`gradreg_sweep.framework.Framework`, for ``gradreg sweep``; the others are classes.

    Raises:
        PluginError: a field does not have the form described here.
    """

    name: str
    title: str = ""
    factory: str
    modules: tuple[str, ...] = ()
    array_modules: tuple[str, ...] = ()
    model_modules: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    spec_version: int
    install: str
    harness: str = ""
    devices: str = ""
    trainer: str = ""
    validation: str = ""
    benchmark: str = ""
    sweep: str = ""

    def __post_init__(self) -> None:
        self._match("name", _NAME, f"{_NAME_RULE}, such as 'torch'")
        object.__setattr__(self, "title", self.title or self.name)
        self._text("title", "a name for pages, such as 'PyTorch'")
        self._match("factory", _TARGET, "'module:callable', such as 'acme_gradreg.backend:AcmeBackend'")
        self._names("modules", "top-level module names, such as ('torch',)")
        self._names("array_modules", "top-level module names, such as ('jax', 'jaxlib')")
        object.__setattr__(self, "model_modules", self.model_modules or self.array_modules)
        self._names("model_modules", "top-level module names, such as ('flax', 'jax')")
        self._names("capabilities", "names, such as ('named_activations',)")
        if isinstance(self.spec_version, bool) or not isinstance(self.spec_version, int):
            raise self._error("spec_version", f"an integer such as {SPEC_VERSIONS[-1]}")
        self._text("install", "a command, such as 'pip install acme-gradreg'")
        for component in COMPONENTS:
            if getattr(self, component) != "":
                self._match(component, _TARGET, f"'module:attribute', such as 'acme_gradreg.{component}:Acme'")


@dataclass(frozen=True, kw_only=True)
class CommandDescription(_Description):
    """A command of ``gradreg``, described in plain values: its module is imported when the command is called.

    Args:
        name: of the command: lower-case letters, digits, ``-`` and ``_``.
        target: ``"module:command"``, a `click.Command`.
        summary: its line in ``gradreg --help``.
        install: the command that installs what the module needs, such as ``pip install "gradreg[demo,torch]"``.

    Raises:
        PluginError: a field does not have the form described here.
    """

    name: str
    target: str
    summary: str
    install: str

    def __post_init__(self) -> None:
        self._match("name", _NAME, f"{_NAME_RULE}, such as 'demo'")
        self._match("target", _TARGET, "'module:command', such as 'acme_gradreg.command:plot'")
        self._text("summary", "one line, such as 'Draw the penalty.'")
        self._text("install", "a command, such as 'pip install acme-gradreg'")


@hookspec
def gradreg_backends() -> list[BackendDescription]:  # type: ignore[empty-body]
    """Describe the backends of this plugin. Called once; must not import a framework."""


@hookspec
def gradreg_commands() -> list[CommandDescription]:  # type: ignore[empty-body]
    """Describe the commands of this plugin. Called once; must not import what the commands need."""
