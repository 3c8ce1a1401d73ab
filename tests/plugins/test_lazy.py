"""Packages whose public names load a framework when they are used."""

import sys
import types

import pytest

from child import HEAVY, imported, packages, run
from gradreg_core import vocabulary
from gradreg_core.errors import BackendImportError
from gradreg_core.plugins.lazy import attach, import_heavy

CALLS = {"check", "loss", "measure", "penalty"}


@pytest.mark.parametrize("package", ["gradreg_torch", "gradreg_jax", "gradreg_tensorflow"])
def test_a_backend_package_imports_its_framework_only_when_it_is_used(package):
    code = f"""
import gradreg_core
import {package} as gradreg
from gradreg_core import vocabulary
reg = gradreg.SpectReg(0.1) + gradreg.JacobianPenalty(1.0, projection=gradreg.sphere(2), phi=gradreg.hinge(1.0))
assert all(getattr(gradreg, name) is getattr(vocabulary, name) for name in vocabulary.__all__)
assert set(gradreg.__all__) <= set(dir(gradreg))
assert gradreg.__version__ == gradreg_core.__version__
try:
    gradreg.SpctReg
except AttributeError as error:
    assert str(error) == "module '{package}' has no attribute 'SpctReg'", error
else:
    raise AssertionError("a name that does not exist was found")
print(*gradreg.__all__)
"""
    assert packages(imported(code)) & HEAVY == set()
    public = run("-c", code).stdout.split()
    assert public == sorted(public)
    assert set(public) - set(vocabulary.__all__) == CALLS | ({"Criterion"} if package == "gradreg_torch" else set())


@pytest.fixture
def lazy(monkeypatch):
    """A package whose `loss` and whose submodule `heavy` come from a heavy module, and whose `compat` is not there."""
    package, heavy = types.ModuleType("acme_lazy"), types.ModuleType("acme_lazy.heavy")
    heavy.loss = lambda: "loss"
    monkeypatch.setitem(sys.modules, "acme_lazy", package)
    monkeypatch.setitem(sys.modules, "acme_lazy.heavy", heavy)
    package.__path__ = []
    package.__getattr__, package.__dir__, package.__all__ = attach(
        "acme_lazy", ["loss"], "acme_lazy.heavy", install="pip install acme", submodules=["heavy", "compat"]
    )
    return package


def test_names_come_from_the_heavy_module_and_stay(lazy):
    assert lazy.__all__ == sorted({"loss", *vocabulary.__all__})
    assert "loss" not in vars(lazy)
    assert lazy.loss() == "loss"
    assert "loss" in vars(lazy)
    assert lazy.heavy is sys.modules["acme_lazy.heavy"]
    assert lazy.SpectReg is vocabulary.SpectReg
    assert {"loss", "heavy", "compat", "SpectReg"} <= set(dir(lazy))


def test_what_is_not_there_says_why(lazy):
    with pytest.raises(AttributeError, match=r"^module 'acme_lazy' has no attribute 'los'"):
        lazy.los  # noqa: B018
    with pytest.raises(
        BackendImportError,
        match=r"^acme_lazy\.compat: importing 'acme_lazy\.compat' failed: No module named 'acme_lazy\.compat'\. "
        r"Install what it needs with: pip install acme$",
    ):
        lazy.compat  # noqa: B018


def test_an_error_of_import_keeps_its_cause():
    with pytest.raises(BackendImportError, match=r"^call: importing 'acme_absent' failed: ") as caught:
        import_heavy("call", "acme_absent", "pip install acme")
    assert caught.value.name == "acme_absent"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
