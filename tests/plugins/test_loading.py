"""Loading the plugins of one hook."""

from importlib import metadata

import pytest

from gradreg_core.plugins import sources
from gradreg_core.plugins.loading import BACKENDS, COMMANDS, load_plugins


@pytest.fixture
def uninstalled(monkeypatch):
    """Nothing is installed, not even gradreg."""
    monkeypatch.setattr(metadata, "entry_points", lambda **_: ())
    monkeypatch.setattr(metadata, "distributions", lambda **_: ())


@pytest.mark.parametrize(
    ("hook", "entry_points"),
    [
        (BACKENDS, ["numpy", "torch", "jax", "tensorflow"]),
        (COMMANDS, ["bench", "conformance", "experiments", "installation", "sweep", "validate"]),
    ],
)
def test_an_uninstalled_checkout_has_the_built_in_plugins(on_path, request, hook, entry_points):
    on_path()
    installed = {plugin.entry_point for plugin in load_plugins(hook)}
    request.getfixturevalue("uninstalled")
    plugins = load_plugins(hook)
    assert [plugin.entry_point for plugin in plugins] == entry_points
    assert {(plugin.distribution, plugin.version, plugin.reason) for plugin in plugins} == {("gradreg", None, "")}
    assert installed <= set(entry_points)


def test_what_a_checkout_lacks_is_left_out(on_path, uninstalled, monkeypatch):
    on_path()
    monkeypatch.setattr(sources, "installed", lambda module: module != "gradreg_jax")
    assert [plugin.entry_point for plugin in load_plugins(BACKENDS)] == ["numpy", "torch", "tensorflow"]


def test_without_metadata_and_without_a_checkout_there_are_none(on_path, uninstalled, monkeypatch, tmp_path):
    on_path()
    monkeypatch.setattr(sources, "_ROOT", tmp_path)
    assert load_plugins(BACKENDS) == []


def test_a_malformed_entry_point_is_broken(on_path, monkeypatch):
    on_path()
    odd = metadata.EntryPoint("odd", "no module: at all", BACKENDS.group)
    monkeypatch.setattr(metadata, "entry_points", lambda **_: (odd,))
    record = load_plugins(BACKENDS)[-1]
    assert (record.entry_point, record.distribution, record.descriptions) == ("odd", "unknown distribution", ())
    assert record.reason.startswith("importing 'no module: at all' failed: ")
    assert str(record) == "unknown distribution (not installed) (entry point 'odd')"
