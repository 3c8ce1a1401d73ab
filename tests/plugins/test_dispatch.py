"""Loading backends by name, and dispatch by the type of the input."""

import ast
import importlib
import inspect
import pydoc
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from gradreg_core.calls import Calls
from gradreg_core.errors import BackendImportError, BackendNotFoundError, InputTypeError, PluginError, UnsupportedError
from gradreg_core.plugins import dispatch
from gradreg_core.plugins.discovery import backends
from gradreg_core.plugins.hookspecs import COMPONENTS
from gradreg_core.presets import FrobReg

# --- loading -------------------------------------------------------------------------------------------------------


def test_a_third_party_backend_computes(on_path):
    on_path("working", "broken", "duplicate")
    acme = dispatch.load_backend("acme")
    assert type(acme).__module__ == "gradreg_acme.backend"
    assert dispatch.load_backend("acme") is acme
    weight = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert acme.penalty(weight, np.ones((3, 2)), None, FrobReg(0.5)) == 15.0


def test_a_backend_of_primitives_gets_the_calls(on_path):
    on_path("working")
    calls = dispatch.load_backend("acme-primitives")
    assert type(calls) is Calls
    assert calls.backend.name == "acme-primitives"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (
            "acme-raises",
            PluginError,
            r"its plugin is broken: gradreg-acme-broken 1\.2\.0 \(entry point 'acme-raises'\): importing .* failed: "
            r"RuntimeError: the acme licence has expired since Tuesday\. "
            r"Fix or uninstall gradreg-acme-broken; 'gradreg backends' lists every plugin\.$",
        ),
        (
            "acme-misspelt",
            PluginError,
            r"its plugin is broken: gradreg-acme-misspelt .*unknown hook 'gradreg_backend' in plugin",
        ),
        (
            "torch",
            PluginError,
            r"duplicate name: 'torch' is claimed by gradreg .* and by gradreg-acme-duplicate 1\.2\.0 .*"
            r"uninstall one of them, or set GRADREG_DISABLE_PLUGINS=1 to use the built-in backends only\.$",
        ),
        (
            "acme-absent",
            BackendImportError,
            r"'acme_absent_framework' is not installed\. Install it with: pip install acme-absent-framework$",
        ),
        (
            "acme-nothing",
            PluginError,
            r"the backend of gradreg-acme-broken .* is broken: \S+:nothing must return a "
            r"gradreg_core\.backend\.Backend, or an object with loss, penalty, measure, check; it returned None\.$",
        ),
        (
            "acme-fails",
            PluginError,
            r"the backend of gradreg-acme-broken .* cannot be made: \S+:fails raised OSError: "
            r"libacme\.so\.1: cannot open shared object file$",
        ),
        (
            "acme-nowhere",
            PluginError,
            r"gradreg-acme-broken 1\.2\.0 .* names \S+:no_such_name, which is not there: module .* has no attribute",
        ),
        (
            "acmee",
            BackendNotFoundError,
            r"no backend of this name is registered\. Did you mean 'acme'\? Available: numpy.*, torch \(broken\), "
            r".*acme, .*acme-absent \(missing\), .*acme-raises \(broken\).*'gradreg backends' says more\.$",
        ),
    ],
)
def test_asking_for_what_cannot_be_used_says_why(on_path, name, kind, message):
    on_path("working", "broken", "duplicate")
    with pytest.raises(kind, match=rf"^load_backend\('{name}'\): {message}"):
        dispatch.load_backend(name)


def test_the_cause_of_a_broken_plugin_is_kept(on_path):
    on_path("broken")
    with pytest.raises(PluginError) as caught:
        dispatch.load_backend("acme-raises")
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_the_environment_names_a_backend(on_path, monkeypatch):
    on_path("working")
    with pytest.raises(
        BackendNotFoundError,
        match=r"^load_backend: no backend was named and GRADREG_BACKEND is not set\. Available: numpy",
    ):
        dispatch.load_backend()
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "acme")
    assert dispatch.load_backend() is dispatch.load_backend("acme")
    assert dispatch.find_backend().name == "acme"
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "tensorfow")
    with pytest.raises(
        BackendNotFoundError,
        match=r"^load_backend\(\) with GRADREG_BACKEND='tensorfow': no backend .* Did you mean 'tensorflow'\?",
    ):
        dispatch.load_backend()


@pytest.mark.parametrize(("name", "kind"), [("", BackendNotFoundError), (3, InputTypeError)])
def test_a_name_is_a_string(name, kind):
    with pytest.raises(kind, match=r"^load_backend: (the name is empty|name must be a string such as 'torch', got 3)"):
        dispatch.load_backend(name)


@pytest.mark.parametrize("framework", ["torch", "jax", "tensorflow"])
def test_an_absent_framework_gives_the_install_line(run, framework):
    code = f"""
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name == {framework!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent)
import gradreg_{framework} as gradreg
from gradreg_core.plugins.dispatch import load_backend
from gradreg_core.plugins.discovery import backends
gradreg.SpectReg(0.1)
print([record.status for record in backends() if record.name == {framework!r}])
for use in (lambda: load_backend({framework!r}), lambda: gradreg.loss):
    try:
        use()
    except ImportError as error:
        print(type(error).__name__, error)
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    status, named, used = done.stdout.splitlines()
    install = f'pip install "gradreg[{framework}]"'
    assert status == "['missing']"
    assert named == (
        f"BackendImportError load_backend({framework!r}): {framework!r} is not installed. Install it with: {install}"
    )
    assert used == (
        f"BackendImportError gradreg_{framework}.loss: importing 'gradreg_{framework}.api' failed: "
        f"No module named {framework!r}. Install what it needs with: {install}"
    )


# --- components ----------------------------------------------------------------------------------------------------


def test_a_component_is_loaded(on_path):
    on_path("working")
    assert dispatch.load_component("acme", "devices")() == ["anvil:0"]
    assert dispatch.load_component("numpy", "harness").__name__ == "NumpyHarness"


@pytest.mark.parametrize(
    ("name", "component", "kind", "message"),
    [
        (
            "acme",
            "harness",
            UnsupportedError,
            r"the backend 'acme' declares no harness\. Give its BackendDescription harness='module:attribute', or "
            r"choose a backend that has one: numpy.*\.$",
        ),
        (
            "acme",
            "trainer",
            PluginError,
            r"gradreg-acme 1\.2\.0 \(entry point 'acme'\) names gradreg_acme\.backend:no_such_trainer, which is not "
            r"there: module .* has no attribute",
        ),
        (
            "acme",
            "sweep",
            BackendImportError,
            r"importing 'gradreg_acme\.absent' failed: .* Install what it needs with: pip install gradreg-acme$",
        ),
    ],
)
def test_a_component_that_is_not_there_says_why(on_path, name, component, kind, message):
    on_path("working")
    with pytest.raises(kind, match=rf"^load_component\('{name}', '{component}'\): {message}"):
        dispatch.load_component(name, component)


def defined(module):
    """The names that a module defines, read without importing it or its framework."""
    tree = ast.parse(Path(find_spec(module).origin).read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))


def test_what_the_built_in_backends_declare_is_there(on_path):
    on_path()
    targets = [
        getattr(record.description, component)
        for record in backends()
        for component in ("factory", *COMPONENTS)
        if record.plugin.builtin and getattr(record.description, component)
    ]
    assert len(targets) >= 4 + 3 * len(COMPONENTS)
    for target in targets:
        module, _, name = target.partition(":")
        assert name in defined(module), target


# --- signatures ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["loss", "penalty", "measure", "check"])
def test_a_call_has_the_signature_of_the_method(name):
    function, method = getattr(dispatch, name), getattr(Calls, name)
    whole, own = inspect.signature(method), inspect.signature(function)
    assert list(own.parameters.values()) == list(whole.parameters.values())[1:]
    assert own.return_annotation == whole.return_annotation
    assert (function.__name__, function.__qualname__, function.__module__) == (name, name, dispatch.__name__)
    shown = pydoc.render_doc(function, renderer=pydoc.plaintext)
    assert all(parameter in shown for parameter in own.parameters)
    assert function.__doc__ == method.__doc__


def test_a_call_without_x_or_with_a_misspelt_keyword_is_a_type_error():
    model, x, y = lambda x: x, np.ones((2, 3)), np.zeros(2, int)
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        dispatch.loss(model, y=y, reg=None)
    with pytest.raises(TypeError, match="sample_wieght"):
        dispatch.loss(model, x, y, None, sample_wieght=None)


# --- dispatch by type ----------------------------------------------------------------------------------------------


def test_calls_go_where_their_input_belongs(on_path):
    on_path("working")
    module = importlib.import_module("gradreg_acme.backend")
    x, weight = np.ones((2, 2)).view(module.Array), np.array([[0.0, 3.0], [4.0, 0.0]])
    assert dispatch.backend_of(x) == "acme"
    assert dispatch.penalty(weight, x, None, FrobReg(2.0)) == 50.0
    assert dispatch.loss(weight, x, np.array([[3.0, 3.0], [3.0, 3.0]]), FrobReg(2.0), step=1) == 50.5
    assert dispatch.penalty(model=weight, x=x, y=None, reg=FrobReg(2.0)) == 50.0
    assert dispatch.measure(weight, x).tolist() == [5.0, 5.0]
    assert dispatch.check(weight, x, None, FrobReg(2.0)) == "linear: nothing to check"


@pytest.mark.parametrize(
    "array", [np.ones(2), np.float64(1), np.ma.ones(2), [[1.0, 2.0]], (1, 2), [np.ones(2)], [], 1.5, True]
)
def test_numpy_arrays_and_numbers_go_to_numpy_or_the_chosen_one(on_path, monkeypatch, array):
    on_path("working")
    assert dispatch.backend_of(array) == "numpy"
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "acme")
    assert dispatch.backend_of(array) == "acme"


def test_an_array_of_a_framework_is_not_redirected(on_path, monkeypatch):
    on_path("working")
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "numpy")
    module = importlib.import_module("gradreg_acme.backend")
    assert dispatch.backend_of([np.ones(2).view(module.Array)]) == "acme"


@pytest.mark.parametrize("value", ["text", None, {"x": 1.0}, object()])
def test_a_type_of_no_backend_is_an_error(on_path, value):
    on_path("working")
    with pytest.raises(
        InputTypeError,
        match=rf"^backend_of: expected an array of one of the backends \(numpy, torch, jax, tensorflow, acme\), got "
        rf"builtins\.{type(value).__name__}\. Convert it, or call load_backend\(name\) and use its calls\.$",
    ):
        dispatch.backend_of(value)


def test_only_loaded_frameworks_are_considered(on_path, monkeypatch):
    on_path()
    pretender = type("Tensor", (), {"__module__": "torch._subclasses.fake_tensor"})()
    monkeypatch.setitem(sys.modules, "torch", sys)
    assert dispatch.backend_of(pretender) == "torch"
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(InputTypeError, match=r"got torch\._subclasses\.fake_tensor\.Tensor\. "):
        dispatch.backend_of(pretender)


def torch_arrays(seen):
    torch = pytest.importorskip("torch")
    mine = type("Mine", (torch.Tensor,), {})
    seen(torch.ones(2))
    seen(torch.nn.Parameter(torch.ones(2)))
    seen(torch.ones(2).as_subclass(mine))
    torch.func.grad(lambda x: seen(x).sum())(torch.ones(2))


def jax_arrays(seen):
    jax = pytest.importorskip("jax")
    x = jax.numpy.ones(2)
    seen(x)
    jax.jit(seen)(x)
    jax.vmap(seen)(x)
    jax.grad(lambda x: seen(x).sum())(x)


def tensorflow_arrays(seen):
    tf = pytest.importorskip("tensorflow")
    seen(tf.ones(2))
    seen(tf.Variable(tf.ones(2)))
    tf.function(seen, autograph=False)(tf.ones(2))


@pytest.mark.parametrize(
    ("framework", "arrays"), [("torch", torch_arrays), ("jax", jax_arrays), ("tensorflow", tensorflow_arrays)]
)
def test_arrays_and_tracers_belong_to_their_framework(on_path, framework, arrays):
    on_path("working")
    kinds = set()

    def seen(x):
        before = set(sys.modules)
        assert dispatch.backend_of(x) == framework
        assert set(sys.modules) == before
        kinds.add(type(x))
        return x

    arrays(seen)
    assert len(kinds) >= 3
