"""Discovery and dispatch, with third-party packages that pip really installs."""

import importlib
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import gradreg_core
from gradreg_core import dispatch, plugins
from gradreg_core.cli import main
from gradreg_core.doctor import probe
from gradreg_core.errors import BackendImportError, BackendNotFoundError, InputTypeError, PluginError
from gradreg_core.frontend import Frontend
from gradreg_core.hookspecs import BackendDescription
from gradreg_core.presets import FrobReg

PACKAGES = Path(__file__).parent / "plugins"
FRAMEWORKS = ("torch", "jax", "tensorflow")


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Folders that pip has installed the fixture packages into: working, broken (two packages), duplicate."""
    packages = {"working": ["working"], "broken": ["broken", "misspelt"], "duplicate": ["duplicate"]}
    folders = {name: tmp_path_factory.mktemp(name) for name in packages}

    def install(name):
        options = ["--no-build-isolation", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(folders[name])]
        command += [str(PACKAGES / package) for package in packages[name]]
        return subprocess.run(command, capture_output=True, text=True)

    for done in in_parallel(install, packages):
        assert done.returncode == 0, done.stderr
    return folders


def in_parallel(function, values):
    with ThreadPoolExecutor() as pool:
        return list(pool.map(function, values))


@pytest.fixture
def on_path(installed, monkeypatch):
    """A function that puts such folders on this process's path and looks again."""
    before = set(sys.modules)
    monkeypatch.delenv(plugins.DISABLE_VARIABLE, raising=False)
    monkeypatch.delenv(dispatch.BACKEND_VARIABLE, raising=False)

    def put(*names):
        for name in names:
            monkeypatch.syspath_prepend(str(installed[name]))
        plugins.discover(refresh=True)

    yield put
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if "acme" in name:
            del sys.modules[name]
    dispatch._instances.clear()
    plugins.discover(refresh=True)


def run(*arguments, paths=(), **variables):
    """Another Python, which finds gradreg as this one does."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADREG_")}
    roots = [
        Path(gradreg_core.__file__).parents[1],
        *(Path(each) for each in find_spec("gradreg_torch").submodule_search_locations),
    ]
    found = [*paths, roots[0], *(root.parent for root in roots[1:]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, found)), **variables}
    command = [sys.executable, "-P", "-W", "error", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


# --- listing -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def listing(installed):
    """`gradreg backends --json` with everything installed at once: (name, distribution) -> row."""
    done = run("-m", "gradreg_core.cli", "backends", "--json", paths=installed.values())
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
    "acme-unmarked": r"it has no hook gradreg_backends; mark the function with gradreg_core\.hookspecs\.hookimpl",
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
            (name, "gradreg", None) for name in ("numpy", *FRAMEWORKS)
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
    frontend = dispatch.load_backend("acme-primitives")
    assert type(frontend) is Frontend
    assert frontend.backend.name == "acme-primitives"


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
            r"Uninstall one of them, or set GRADREG_DISABLE_PLUGINS=1 to use the built-in backends only\.$",
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
            r"the backend of gradreg-acme-broken .* cannot be made: \S+:no_such_name raised AttributeError: ",
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


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_an_absent_framework_gives_the_install_line(framework):
    code = f"""
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name == {framework!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent)
import gradreg_{framework} as gradreg
from gradreg_core.dispatch import load_backend
from gradreg_core.plugins import backends
gradreg.SpectReg(0.1)
print([each.status for each in backends() if each.name == {framework!r}])
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


# --- dispatch by type ----------------------------------------------------------------------------------------------


def test_calls_go_where_their_input_belongs(on_path):
    on_path("working")
    module = importlib.import_module("gradreg_acme.backend")
    x, weight = np.ones((2, 2)).view(module.Array), np.array([[0.0, 3.0], [4.0, 0.0]])
    assert dispatch.backend_of(x) == "acme"
    assert dispatch.penalty(weight, x, None, FrobReg(2.0)) == 50.0
    assert dispatch.loss(weight, x, np.array([[3.0, 3.0], [3.0, 3.0]]), FrobReg(2.0), step=1) == 50.5
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


# --- the doctor ----------------------------------------------------------------------------------------------------


def doctor(*arguments):
    result = CliRunner().invoke(main, ["doctor", *arguments])
    return result.exit_code, result.output


def test_the_doctor_passes_what_works(on_path, monkeypatch):
    on_path("working")
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "acme")
    status, output = doctor("acme", "acme-primitives")
    lines = output.splitlines()
    assert status == 0, output
    assert lines[0].startswith(f"python {sys.version.split()[0]} (")
    assert f"numpy {np.__version__}" in lines
    assert "GRADREG_BACKEND=acme" in lines
    assert lines[-2:] == [f"acme: ok: numpy {np.__version__}", "acme-primitives: ok: no modules needed"]


def test_the_doctor_reports_what_crashes(on_path):
    on_path("working", "broken")
    status, output = doctor("acme-crashing", "acme-fails", "acme-absent")
    lines = output.splitlines()
    assert status == 1
    assert "acme-crashing: FAILED: importing it was ended by SIGKILL" in lines
    assert "problem: acme-crashing: importing it was ended by SIGKILL" in lines
    assert re.search(r"^acme-fails: FAILED: importing it failed with exit status 1: .*libacme\.so\.1", output, re.M)
    assert re.search(r"^problem: load_backend\('acme-absent'\): .*pip install acme-absent-framework$", output, re.M)
    assert re.search(r"^problem: gradreg-acme-misspelt 1\.2\.0 \(entry point 'acme-misspelt'\): ", output, re.M)


def test_the_doctor_does_not_wait_for_ever(on_path):
    on_path("broken")
    (record,) = [each for each in plugins.backends() if each.name == "acme-hanging"]
    assert probe(record, timeout=0.5).problem == "importing it did not end within 0.5 seconds"


def test_the_doctor_fails_for_an_unknown_choice(on_path, monkeypatch):
    on_path("working")
    monkeypatch.setenv(dispatch.BACKEND_VARIABLE, "acmee")
    status, output = doctor("acme-primitives")
    assert status == 1
    assert "problem: load_backend() with GRADREG_BACKEND='acmee': no backend of this name is registered." in output


def test_the_doctor_fails_for_a_duplicate(on_path):
    on_path("working", "duplicate")
    status, output = doctor("acme-primitives")
    assert status == 1
    assert output.count("problem: torch: duplicate name: 'torch' is claimed by gradreg ") == 1
