"""What importing gradreg does not import, measured in other processes."""

import os
import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import gradreg_core
from gradreg_core import norms, presets, projections, spec, vocabulary

FRAMEWORKS = {"torch", "jax", "jaxlib", "tensorflow", "keras"}
HEAVY = FRAMEWORKS | {"matplotlib", "sklearn"}
PACKAGES = ("gradreg_torch", "gradreg_jax", "gradreg_tensorflow")
CALLS = {"check", "loss", "measure", "penalty"}


def python(code, *options, path=()):
    """Another Python, which finds gradreg as this one does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADREG_")}
    backends = [Path(each).parent for each in find_spec("gradreg_torch").submodule_search_locations]
    found = [*path, Path(gradreg_core.__file__).parents[1], *backends, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(map(str, found))
    command = [sys.executable, "-P", *options, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def imported(code, **options):
    """The top-level modules that `code` imports, as -X importtime reports them."""
    lines = python(code, "-X", "importtime", **options).stderr.splitlines()
    names = [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]
    return {name.partition(".")[0] for name in names}


def test_the_core_imports_no_framework_and_no_terminal_library():
    found = imported("import gradreg_core")
    assert "gradreg_core" in found
    assert found & (HEAVY | {"click", "rich"}) == set()


def test_this_check_can_fail(tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("import torch\n")
    (tmp_path / "torch.py").write_text("")
    found = imported("import gradreg_core, jax", path=[tmp_path])
    assert found & HEAVY == {"jax", "torch"}


def test_no_module_of_the_core_imports_a_framework():
    names = [each.name for each in pkgutil.walk_packages(gradreg_core.__path__, "gradreg_core.")]
    assert {
        "gradreg_core.cli.main",
        "gradreg_core.plugins.dispatch",
        "gradreg_core.plugins.discovery",
    } <= set(names)
    assert imported(f"import {', '.join(names)}") & HEAVY == set()


@pytest.mark.parametrize("call", ["backends()", "backends(refresh=True)", "discover()"])
def test_listing_imports_no_framework(call):
    code = f"from gradreg_core.plugins.discovery import backends, discover\nassert len({call}) >= 4"
    assert imported(code) & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["backends", "--json"]])
def test_the_command_imports_no_framework(arguments):
    code = f"from gradreg_core.cli.main import main\nmain({arguments}, standalone_mode=False)"
    found = imported(code)
    assert "click" in found
    assert found & (HEAVY | {"rich"}) == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_backend_package_imports_its_framework_only_when_it_is_used(package):
    code = f"""
import {package} as gradreg
from gradreg_core import vocabulary
reg = gradreg.SpectReg(0.1) + gradreg.JacobianPenalty(1.0, projection=gradreg.sphere(2), phi=gradreg.hinge(1.0))
assert all(getattr(gradreg, name) is getattr(vocabulary, name) for name in vocabulary.__all__)
assert set(gradreg.__all__) <= set(dir(gradreg))
try:
    gradreg.SpctReg
except AttributeError as error:
    assert str(error) == "module '{package}' has no attribute 'SpctReg'", error
else:
    raise AssertionError("a name that does not exist was found")
print(*gradreg.__all__)
"""
    assert imported(code) & HEAVY == set()
    public = python(code).stdout.split()
    assert public == sorted(public)
    assert set(public) - set(vocabulary.__all__) == CALLS | ({"Criterion"} if package == "gradreg_torch" else set())


def test_the_vocabulary_is_the_specification():
    words = {name for name in projections.__all__ if name.islower()}
    shapes = {name for name in norms.__all__ if name.islower() and issubclass_of_shape(getattr(norms, name))}
    expected = {*spec.__all__, *presets.__all__, *words, *shapes}
    assert set(vocabulary.__all__) == expected
    assert len(vocabulary.__all__) == len(expected)
    modules = {"spec": spec, "presets": presets, "projections": projections, "norms": norms}
    for name in vocabulary.__all__:
        assert any(getattr(module, name, None) is getattr(vocabulary, name) for module in modules.values()), name


def issubclass_of_shape(value):
    return isinstance(value, type) and issubclass(value, norms.Phi)
