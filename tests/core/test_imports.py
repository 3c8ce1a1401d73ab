"""Which modules may import which, and what importing gradreg does not import."""

import pkgutil
import sys
import tomllib
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

import gradreg_core
from child import HEAVY, imported, packages, run

ROOT = Path(gradreg_core.__file__).parents[1]
PACKAGES = [
    *("gradreg_core", "gradreg_numpy", "gradreg_torch", "gradreg_jax", "gradreg_tensorflow"),
    *("gradreg_keras", "gradreg_conformance", "gradreg_validation", "gradreg_sweep", "gradreg_bench"),
    *("gradreg_monitor", "gradreg_experiments"),
]

# --- the contracts in pyproject.toml -------------------------------------------------------------------------------


def circle(*names):
    """A circle of imports in these packages, those for types and those inside functions included; None without one."""
    graph = grimp.build_graph(*names, cache_dir=None)
    try:
        TopologicalSorter({m: graph.find_modules_directly_imported_by(m) for m in graph.modules}).prepare()
    except CycleError as error:
        return error.args[1]
    return None


def lint(folder, config):
    """(exit status, output) of import-linter in another process."""
    code = f"from importlinter.cli import lint_imports; raise SystemExit(lint_imports({config!r}, no_cache=True))"
    done = run("-c", f"import os; os.chdir({str(folder)!r}); {code}", paths=[folder])
    return done.returncode, " ".join(done.stdout.split())


def test_no_modules_import_each_other_in_a_circle():
    assert circle(*PACKAGES) is None


def test_the_contracts_are_kept():
    status, output = lint(ROOT, "pyproject.toml")
    assert status == 0, output
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    assert f"Contracts: {len(contracts)} kept, 0 broken" in output


def test_the_contracts_cover_every_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    shipped = [Path(folder).name for folder in settings["hatch"]["build"]["targets"]["wheel"]["packages"]]
    assert sorted(settings["importlinter"]["root_packages"]) == sorted(PACKAGES) == sorted(shipped)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A function that makes a package of `plugins` and `engine` with a contract like ours, for the text of `engine`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "setup.toml").write_text(
        """
        [tool.importlinter]
        root_packages = ["acme_made_up"]
        [[tool.importlinter.contracts]]
        name = "layers"
        type = "layers"
        containers = ["acme_made_up"]
        exhaustive = true
        layers = ["plugins", "engine"]
        """
    )

    def make(engine, **others):
        package = tmp_path / "acme_made_up"
        package.mkdir()
        modules = {"__init__": "", "plugins": "import acme_made_up.engine", "engine": engine, **others}
        for name, text in modules.items():
            (package / f"{name}.py").write_text(text)

    yield make
    sys.modules.pop("acme_made_up", None)


FOR_TYPES = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import acme_made_up.plugins"
IN_A_FUNCTION = "def call():\n    from acme_made_up import plugins"


@pytest.mark.parametrize("engine", ["import acme_made_up.plugins", FOR_TYPES, IN_A_FUNCTION])
def test_these_checks_can_fail(made_up, tmp_path, engine):
    made_up(engine)
    assert set(circle("acme_made_up")) == {"acme_made_up.plugins", "acme_made_up.engine"}
    status, output = lint(tmp_path, "setup.toml")
    assert status == 1
    assert "acme_made_up.engine is not allowed to import acme_made_up.plugins" in output


def test_these_checks_can_pass(made_up, tmp_path):
    made_up("import numpy")
    assert circle("acme_made_up") is None
    assert lint(tmp_path, "setup.toml")[0] == 0


def test_a_new_module_needs_a_place(made_up, tmp_path):
    made_up("import numpy", draws="")
    status, output = lint(tmp_path, "setup.toml")
    assert status == 1
    assert "acme_made_up.draws" in output


# --- what is imported, measured in other processes -----------------------------------------------------------------


def test_the_core_imports_no_framework_no_command_and_no_terminal_library():
    modules = imported("import gradreg_core")
    assert "gradreg_core" in modules
    assert packages(modules) & (HEAVY | {"click", "rich", "gradreg_validation"}) == set()
    assert not any(module.startswith(("gradreg_core.cli", "gradreg_core.portable")) for module in modules)


def test_this_check_can_fail(tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("import torch\n")
    (tmp_path / "torch.py").write_text("")
    modules = imported("import gradreg_core, jax", paths=[tmp_path])
    assert packages(modules) & HEAVY == {"jax", "torch"}


def test_no_module_of_the_core_imports_a_framework():
    names = {module.name for module in pkgutil.walk_packages(gradreg_core.__path__, "gradreg_core.")}
    assert {"gradreg_core.cli.main", "gradreg_core.plugins.dispatch", "gradreg_core.plugins.discovery"} <= names
    assert packages(imported(f"import {', '.join(sorted(names))}")) & HEAVY == set()


@pytest.mark.parametrize("call", ["backends()", "backends(refresh=True)", "commands()"])
def test_listing_imports_no_framework(call):
    code = f"from gradreg_core.plugins.discovery import backends, commands\nassert len({call}) >= 4"
    assert packages(imported(code)) & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["backends", "--json"]])
def test_the_command_imports_no_framework(arguments):
    code = f"from gradreg_core.cli.main import main\nmain({arguments}, standalone_mode=False)"
    modules = packages(imported(code))
    assert "click" in modules
    assert modules & (HEAVY | {"rich"}) == set()


EXTRAS = {
    "lightning": ("gradreg_monitor.lightning, gradreg_torch", {"torch", "lightning"}),
    "transformers": ("gradreg_torch.transformers, gradreg_monitor.transformers", {"torch", "transformers"}),
    "keras on torch": ("gradreg_keras, gradreg_monitor.keras", {"torch", "keras"}),
    "keras on jax": ("gradreg_keras, gradreg_monitor.keras", {"jax", "keras"}),
    "monitor": ("gradreg_monitor.figure, gradreg_monitor.live", {"matplotlib"}),
}
"""The purpose of an extra, and the packages that it needs."""
ALONE = """
import os, sys
from importlib import metadata

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, *rest):
        return None if name.partition(".")[0] in {missing} else self.finder.find_spec(name, *rest)

real = metadata.Distribution.from_name

def from_name(name):
    if name in {missing}:
        raise metadata.PackageNotFoundError(name)
    return real(name)

metadata.Distribution.from_name = from_name
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
os.environ["KERAS_BACKEND"] = {backend!r}
import {modules}
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRAS)
def test_an_extra_imports_with_nothing_else_installed(name):
    modules, own = EXTRAS[name]
    others = HEAVY | {"jaxlib", "lightning", "transformers", "peft", "pytest", "hypothesis", "flax", "optax", "joblib"}
    missing = others - own - ({"jaxlib"} if "jax" in own else set())
    done = run("-c", ALONE.format(missing=missing, backend=name.rpartition(" ")[2], modules=modules))
    assert done.returncode == 0, done.stderr
