"""The lists of backends and commands, with third-party packages that pip really installs."""

import json
import re
import sys
from importlib import metadata
from importlib.util import find_spec

import pytest

from gradreg_core.errors import BackendNotFoundError
from gradreg_core.plugins import discovery as plugins
from gradreg_core.plugins import dispatch
from gradreg_core.plugins.hookspecs import BackendDescription

# --- backends ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listing(installed, run):
    """`gradreg backends --json` with everything installed at once: (name, distribution) -> row."""
    done = run("-m", "gradreg_core.cli.main", "backends", "--json", paths=installed.values())
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    by_name = {(row["name"], row["distribution"]): row for row in rows}
    assert len(by_name) == len(rows)
    return by_name


@pytest.mark.slow
def test_a_working_plugin_is_listed_whatever_else_is_broken(listing):
    row = listing["acme", "gradreg-acme"]
    assert row == {
        "name": "acme",
        "status": "ok",
        "reason": "",
        "distribution": "gradreg-acme",
        "version": "1.2.0",
        "entry_point": "acme",
        "modules": {"numpy": metadata.version("numpy")},
        "capabilities": ["linear_only"],
        "spec_version": 1,
        "install": "pip install gradreg-acme",
    }


def test_an_absent_framework_is_missing_not_broken(listing):
    row = listing["acme-absent", "gradreg-acme"]
    assert row["status"] == "missing"
    assert row["modules"] == {"acme_absent_framework": None}
    assert row["reason"] == ("not installed: 'acme_absent_framework'; install with: pip install acme-absent-framework")


BROKEN = {
    "acme-raises": r"importing 'gradreg_acme_broken\.raises' failed: "
    r"RuntimeError: the acme licence has expired since Tuesday",
    "acme-exits": r"importing 'gradreg_acme_broken\.exits' failed: SystemExit: 3",
    "acme-hook-raises": r"its hook gradreg_backends failed: KeyError: 'no such key'",
    "acme-unmarked": r"it has no hook gradreg_backends; mark the function with "
    r"gradreg_core\.plugins\.hookspecs\.hookimpl",
    "acme-strings": r"its hook gradreg_backends must return a list of BackendDescription, got \['acme-strings'\]",
    "acme-invalid": r"BackendDescription: modules must be a tuple of top-level module names, such as \('torch',\); "
    r"got 'torch'",
    "acme-argument": r"Plugin 'acme-argument' for hook 'gradreg_backends' .*Argument\(s\) \{'config'\} are declared in "
    r"the hookimpl but can not be found in the hookspec; the hooks are: gradreg_backends, gradreg_commands",
    "acme-misspelt": r"unknown hook 'gradreg_backend' in plugin <module 'gradreg_acme_misspelt' .*>; "
    r"the hooks are: gradreg_backends, gradreg_commands",
    "jax": r"backend 'jax' was written for spec_version 99, this gradreg knows 1; upgrade gradreg",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_listed_with_its_reason(listing, name):
    (row,) = [row for (listed, owner), row in listing.items() if listed == name and owner != "gradreg"]
    assert row["status"] == "broken"
    assert re.fullmatch(BROKEN[name], row["reason"]), row["reason"]


@pytest.mark.parametrize("name", ["numpy", "jax", "tensorflow"])
def test_broken_plugins_leave_the_built_in_ones_alone(listing, name):
    assert listing[name, "gradreg"]["status"] == ("ok" if find_spec(name) else "missing")


def test_a_duplicate_name_is_broken_for_both_claimants(listing):
    ours, theirs = listing["torch", "gradreg"], listing["torch", "gradreg-acme-duplicate"]
    assert ours["status"] == theirs["status"] == "broken"
    assert ours["reason"] == theirs["reason"]
    assert re.fullmatch(
        r"duplicate name: 'torch' is claimed by gradreg .* \(entry point 'torch'\) "
        r"and by gradreg-acme-duplicate 1\.2\.0 \(entry point 'torch'\); uninstall one of them, or set "
        r"GRADREG_DISABLE_PLUGINS=1 to use the built-in backends only",
        ours["reason"],
    )


def test_backends_are_kept_until_refreshed(on_path, installed, monkeypatch):
    on_path()
    assert "acme" not in {record.name for record in [*plugins.backends(), *plugins.commands()]}
    monkeypatch.syspath_prepend(str(installed["working"]))
    assert "acme" not in {record.name for record in [*plugins.backends(), *plugins.commands()]}
    assert "acme" in {record.name for record in plugins.backends(refresh=True)}
    assert "acme" in {record.name for record in plugins.commands()}


@pytest.mark.parametrize("value", ["1", "true", "YES", " yes "])
def test_third_parties_can_be_disabled(on_path, monkeypatch, value):
    on_path("working", "duplicate")
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, value)
    assert {record.plugin.distribution for record in [*plugins.backends(), *plugins.commands()]} == {"gradreg"}
    (torch,) = [record for record in plugins.backends() if record.name == "torch"]
    assert torch.status != "broken"
    with pytest.raises(BackendNotFoundError, match=r"GRADREG_DISABLE_PLUGINS is set, so plugins are not considered"):
        dispatch.load_backend("acme")


@pytest.mark.parametrize("value", ["", "0", "no"])
def test_other_values_disable_nothing(on_path, monkeypatch, value):
    on_path("working")
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, value)
    assert "acme" in {record.name for record in plugins.backends()}


def test_built_in_backends_come_first_in_a_fixed_order(on_path):
    on_path("working", "broken")
    entry_points = list(dict.fromkeys((r.plugin.distribution, r.plugin.entry_point) for r in plugins.backends()))
    assert entry_points[:4] == [("gradreg", name) for name in ("numpy", "torch", "jax", "tensorflow")]
    assert entry_points[4:] == sorted(entry_points[4:])
    assert len(entry_points[4:]) == 11


def test_a_new_built_in_backend_needs_no_line_here(on_path, monkeypatch):
    on_path()
    entry_points = metadata.entry_points

    class Renamed:
        """The distribution of gradreg, for an entry point that it does not have."""

        name, version = "gradreg", "0.1.0"

    def with_another(*, group):
        another = metadata.EntryPoint("another", "gradreg_numpy.plugin", group)
        vars(another)["dist"] = Renamed
        return [another, *entry_points(group=group)]

    monkeypatch.setattr(metadata, "entry_points", with_another)
    names = [record.plugin.entry_point for record in plugins.backends(refresh=True)]
    assert names == ["numpy", "torch", "jax", "tensorflow", "another"]


@pytest.mark.parametrize("finder", ["raises", "none"])
def test_a_module_that_cannot_be_found_is_missing(monkeypatch, finder):
    class Refusing:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "acme_refused":
                raise ModuleNotFoundError(f"no {name} here")

    if finder == "raises":
        monkeypatch.setattr(sys, "meta_path", [Refusing, *sys.meta_path])
    else:
        monkeypatch.setitem(sys.modules, "acme_refused", None)
    description = BackendDescription(
        name="a", factory="b:c", modules=["numpy", "acme_refused"], spec_version=1, install="pip install a"
    )
    assert plugins.missing_modules(description) == ["acme_refused"]


# --- commands ------------------------------------------------------------------------------------------------------


def test_commands_come_from_all_plugins(on_path):
    on_path("working")
    records = {record.name: record for record in plugins.commands()}
    assert {"acme", "acme-plot", "backends", "bench", "conformance", "demo", "doctor", "reproduce"} <= set(records)
    assert {record.status for record in records.values()} == {"ok"}
    assert records["acme"].plugin.distribution == "gradreg-acme"
    assert all(record.description.summary.endswith(".") for record in records.values())


def test_a_broken_command_plugin_leaves_the_others_alone(on_path):
    on_path()
    before = plugins.commands()
    on_path("broken")
    assert [record for record in plugins.commands() if record.status == "ok"][: len(before)] == before
    broken = {record.name: record.reason for record in plugins.commands() if record.status == "broken"}
    assert set(broken) == {"acme-none", "acme-raises", "doctor"}
    assert broken["acme-none"].startswith("it has no hook gradreg_commands; mark the function with ")
    assert broken["acme-raises"].startswith("importing 'gradreg_acme_broken.raises' failed: RuntimeError: ")


def test_no_plugin_takes_a_command_away(on_path):
    on_path("broken")
    ours, theirs = (record for record in plugins.commands() if record.name == "doctor")
    assert (ours.status, ours.plugin.distribution) == ("ok", "gradreg")
    assert theirs.status == "broken"
    assert re.fullmatch(
        r"duplicate name: 'doctor' is a command of gradreg .* \(entry point 'installation'\); "
        r"uninstall gradreg-acme-broken",
        theirs.reason,
    )
