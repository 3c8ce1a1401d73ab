"""Discovery and listing, with third-party packages that pip really installs."""

import json
import re
import sys
from importlib import metadata
from importlib.util import find_spec

import pytest
from click.testing import CliRunner

from gradreg_core.cli.main import main
from gradreg_core.errors import BackendNotFoundError, PluginError
from gradreg_core.plugins import discovery as plugins
from gradreg_core.plugins import dispatch
from gradreg_core.plugins.hookspecs import BackendDescription

# --- listing -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listing(installed, run):
    """`gradreg backends --json` with everything installed at once: (name, distribution) -> row."""
    done = run("-m", "gradreg_core.cli.main", "backends", "--json", paths=installed.values())
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    found = {(row["name"], row["distribution"]): row for row in rows}
    assert len(found) == len(rows)
    return found


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
    r"the hookimpl but can not be found in the hookspec; the hooks are: gradreg_backends",
    "acme-misspelt": r"unknown hook 'gradreg_backend' in plugin <module 'gradreg_acme_misspelt' .*>; "
    r"the hooks are: gradreg_backends",
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
        r"and by gradreg-acme-duplicate 1\.2\.0 \(entry point 'torch'\)",
        ours["reason"],
    )


def test_the_table_has_every_backend_and_every_reason(on_path):
    on_path("working", "broken")
    result = CliRunner().invoke(main, ["backends"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert re.fullmatch(
        r"acme +ok +gradreg-acme 1\.2\.0 +numpy \S+ +linear_only *", lines[[*map(_head, lines)].index("acme")]
    )
    assert re.match(
        r"acme-raises +BROKEN +gradreg-acme-broken 1\.2\.0", lines[[*map(_head, lines)].index("acme-raises")]
    )
    assert "acme-exits: importing 'gradreg_acme_broken.exits' failed: SystemExit: 3" in lines


def _head(line):
    return line.split(" ")[0]


# --- discovery -----------------------------------------------------------------------------------------------------


def test_discovery_is_kept_until_refreshed(on_path, installed, monkeypatch):
    on_path()
    assert "acme" not in {each.name for each in plugins.backends()}
    monkeypatch.syspath_prepend(str(installed["working"]))
    assert "acme" not in {each.name for each in plugins.backends()}
    assert "acme" in {each.name for each in plugins.backends(refresh=True)}
    assert "acme" in {each.entry_point for each in plugins.discover()}


@pytest.mark.parametrize("value", ["1", "true", "YES", " yes "])
def test_third_parties_can_be_disabled(on_path, monkeypatch, value):
    on_path("working", "duplicate")
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, value)
    assert {each.distribution for each in plugins.discover()} == {"gradreg"}
    (torch,) = [each for each in plugins.backends() if each.name == "torch"]
    assert torch.status != "broken"
    with pytest.raises(BackendNotFoundError, match=r"GRADREG_DISABLE_PLUGINS is set, so plugins are not considered"):
        dispatch.load_backend("acme")


@pytest.mark.parametrize("value", ["", "0", "no"])
def test_other_values_disable_nothing(on_path, monkeypatch, value):
    on_path("working")
    monkeypatch.setenv(plugins.DISABLE_VARIABLE, value)
    assert "acme" in {each.name for each in plugins.backends()}


def test_built_in_plugins_come_first_in_a_fixed_order(on_path):
    on_path("working", "broken")
    names = [each.entry_point for each in plugins.discover()]
    assert names[:4] == ["numpy", "torch", "jax", "tensorflow"]
    others = [(each.distribution, each.entry_point) for each in plugins.discover()[4:]]
    assert others == sorted(others)
    assert len(others) == 11


def test_an_uninstalled_checkout_has_the_built_in_backends(on_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(metadata, "entry_points", lambda **_: ())
        found = plugins.discover(refresh=True)
        assert [(each.entry_point, each.distribution, each.version) for each in found] == [
            (name, "gradreg", None) for name in ("numpy", "torch", "jax", "tensorflow")
        ]
        assert [each.status for each in found if each.entry_point == "numpy"] == ["ok"]


def test_a_malformed_entry_point_is_broken(on_path, monkeypatch):
    with monkeypatch.context() as patch:
        odd = metadata.EntryPoint("odd", "no module: at all", plugins.GROUP)
        patch.setattr(metadata, "entry_points", lambda **_: (odd,))
        record = plugins.discover(refresh=True)[-1]
    assert (record.entry_point, record.distribution, record.status) == ("odd", "unknown distribution", "broken")
    assert record.reason.startswith("importing 'no module: at all' failed: ")
    assert str(record) == "unknown distribution (not installed) (entry point 'odd')"


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


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "Acme", "name must be lower-case letters, digits, '-' and '_', starting with a letter, such as"),
        ("name", None, "name must be lower-case letters"),
        ("factory", "acme.backend", "factory must be 'module:callable', such as"),
        ("factory", len, "factory must be 'module:callable', such as"),
        ("modules", ("torch.nn",), r"modules must be a tuple of top-level module names, such as \('torch',\); got"),
        ("array_modules", {"jax": 1}, "array_modules must be a tuple of top-level module names"),
        ("capabilities", "named_activations", "capabilities must be a tuple of names"),
        ("capabilities", (1,), "capabilities must be a tuple of names"),
        ("spec_version", True, "spec_version must be an integer such as 1; got True"),
        ("spec_version", "1", "spec_version must be an integer such as 1; got '1'"),
        ("install", " ", "install must be a command, such as 'pip install acme-gradreg'; got ' '"),
    ],
)
def test_a_description_is_validated(field, value, message):
    right = {"name": "acme", "factory": "a.b:C", "spec_version": 1, "install": "pip install a"}
    assert BackendDescription(**right, modules=["acme"]).modules == ("acme",)
    with pytest.raises(PluginError, match=f"^BackendDescription: {message}"):
        BackendDescription(**{**right, field: value})
