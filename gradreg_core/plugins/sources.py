"""The sources of plugins: the entry points of gradreg itself, and those of other distributions."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from gradreg_core.plugins.hookspecs import PROJECT

if sys.version_info >= (3, 11):
    import tomllib as toml
else:
    import tomli as toml

__all__ = ["Source", "installed", "sources"]

_ROOT = Path(__file__).parents[2]
"""The folder of this package: a checkout, or where distributions are installed."""


@dataclass(frozen=True)
class Source:
    """An entry point and the distribution that declares it."""

    entry_point: metadata.EntryPoint
    distribution: str
    version: str | None
    builtin: bool = False
    """Whether the distribution is the one that this package is part of. What a distribution calls itself proves
    nothing."""


def sources(group: str) -> tuple[list[Source], list[Source]]:
    """The entry points of gradreg itself in a group, and those of others by distribution and name."""
    own = next(_own(), None)
    points = () if own is None else own.entry_points.select(group=group)
    builtin = _checkout(group) if own is None else [_source(point, own) for point in points]
    ours = {(source.entry_point.name, source.entry_point.value) for source in builtin}
    others = []
    for point in _entry_points(group):
        if (point.name, point.value) not in ours:
            others.append(_source(point, getattr(point, "dist", None), builtin=False))
    others.sort(key=lambda source: (source.distribution, source.entry_point.name))
    return builtin, others


def installed(module: str) -> bool:
    """Whether a top-level module is installed, found without importing it."""
    if sys.modules.get(module) is not None:
        return True
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a finder that refuses, or None in sys.modules
        return False


def _entry_points(group: str) -> list[metadata.EntryPoint]:
    """The entry points of all distributions whose metadata can be read."""
    try:
        return list(metadata.entry_points(group=group))
    except Exception:  # one distribution is damaged
        points: list[metadata.EntryPoint] = []
        for dist in metadata.distributions():
            with suppress(Exception):
                points += dist.entry_points.select(group=group)
        return points


def _own() -> Iterator[metadata.Distribution]:
    """The distributions named gradreg that hold this very package: installed, or editable."""
    for dist in metadata.distributions(name=PROJECT):
        with suppress(Exception):  # metadata that cannot be read are skipped
            if Path(str(dist.locate_file("gradreg_core"))).resolve() == _ROOT / "gradreg_core":
                yield dist
            elif (text := dist.read_text("direct_url.json")) is not None:
                parts = urlsplit(json.loads(text)["url"])
                if parts.scheme == "file" and Path(url2pathname(parts.path)).resolve() == _ROOT:
                    yield dist


def _source(point: metadata.EntryPoint, dist: metadata.Distribution | None, builtin: bool = True) -> Source:
    try:
        assert dist is not None
        return Source(point, str(dist.name), str(dist.version), builtin)
    except Exception:  # metadata without a name or a version
        return Source(point, "unknown distribution", None, builtin)


def _checkout(group: str) -> list[Source]:
    """The plugins in the pyproject.toml of a checkout that is on the path, but not installed."""
    file = _ROOT / "pyproject.toml"
    if not file.is_file():
        return []
    targets = toml.loads(file.read_text(encoding="utf-8"))["project"]["entry-points"].get(group, {})
    points = [metadata.EntryPoint(name, target, group) for name, target in targets.items()]
    return [Source(point, PROJECT, None, True) for point in points if installed(point.module.partition(".")[0])]
