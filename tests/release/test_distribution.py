"""The wheel and the sdist: what they hold, and that one source gives one wheel."""

import hashlib
import re
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

import gradreg_core
from documents import ROOT

SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = [Path(folder).name for folder in SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A function that builds a wheel in a folder of its own."""

    def build():
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
            return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")))))

    return build


@pytest.fixture(scope="module")
def wheel(built):
    return built()


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_packages_typed_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    tops = {name.partition("/")[0] for name in names}
    assert tops == {*PACKAGES, f"gradreg-{gradreg_core.__version__}.dist-info"}
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert f"gradreg-{gradreg_core.__version__}.dist-info/licenses/LICENSE" in names
    tests = {name for name in names if re.search(r"(^|/)(test_\w+|conftest)\.py$|/tests/|__pycache__|/runs/", name)}
    assert tests == {"gradreg_conformance/suite/test_conformance.py"}  # which backends are tested with


def test_the_wheel_holds_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder in SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {str(path.relative_to((ROOT / folder).parent)) for path in files} <= names


def test_two_builds_give_one_wheel(built, wheel):
    first, second = (hashlib.sha256(path.read_bytes()).hexdigest() for path in (wheel, built()))
    assert first == second


def test_the_metadata_name_versions_licence_and_places(wheel):
    values = metadata(wheel)
    assert values["Version"] == gradreg_core.__version__
    assert values["License-Expression"] == "MIT"
    oldest = values["Requires-Python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in values.get_all("Classifier")
    assert set(values.get_all("Provides-Extra")) == {*SETTINGS["project"]["optional-dependencies"]}
    assert values.get_all("Project-URL")


def test_the_sdist_holds_what_builds_and_tests_need(tmp_path):
    with tarfile.open(next(SdistBuilder(str(ROOT)).build(directory=str(tmp_path)))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["pyproject.toml", "LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "Makefile"]
    assert {*wanted, "noxfile.py", "tests/conftest.py", "docs/index.md", "gradreg_core/py.typed"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith((".venv", "out/"))]


def test_the_recipe_of_conda_has_the_same_requirements():
    recipe = yaml.safe_load(re.sub(r"\$\{\{.*?\}\}", "x", (ROOT / "recipe" / "recipe.yaml").read_text()))
    assert recipe["context"]["version"] == gradreg_core.__version__
    run = {re.split(r"[ >]", line)[0]: line.replace(" ", "") for line in recipe["requirements"]["run"]}
    for requirement in SETTINGS["project"]["dependencies"]:
        name, _, marker = requirement.partition(";")
        if not marker:
            assert run[name.partition(">")[0]] == name
    assert run["python"] == f"python{SETTINGS['project']['requires-python']}"


def test_the_oldest_versions_on_the_page_are_those_of_the_extras():
    text = (ROOT / "docs" / "versions.md").read_text()
    extras = SETTINGS["project"]["optional-dependencies"]
    wanted = {"PyTorch": extras["torch"][0], "JAX": extras["jax"][0], "TensorFlow": extras["tensorflow"][0]}
    for name, requirement in {**wanted, "Python": SETTINGS["project"]["requires-python"]}.items():
        (oldest,) = re.findall(rf"^\| {name} \| ([\d.]+) \|", text, re.M)
        assert re.search(r">=([\d.]+)", requirement)[1] == oldest
