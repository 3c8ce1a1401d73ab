"""Fixtures: the third-party packages of this folder, really installed by pip."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

import child
from gradreg_core.plugins import discovery as plugins
from gradreg_core.plugins import dispatch

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """Folders that pip has installed the fixture packages into: working, broken (two packages), duplicate."""
    packages = {"working": ["working"], "broken": ["broken", "misspelt"], "duplicate": ["duplicate"]}
    folders = {name: tmp_path_factory.mktemp(name) for name in packages}

    def install(name):
        options = ["--no-build-isolation", "--no-deps", "--no-index", "--no-compile", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "install", "-q", *options, "--target", str(folders[name])]
        command += [str(HERE / package) for package in packages[name]]
        return subprocess.run(command, capture_output=True, text=True)

    with ThreadPoolExecutor() as pool:
        for done in pool.map(install, packages):
            assert done.returncode == 0, done.stderr
    return folders


@pytest.fixture
def on_path(installed, monkeypatch):
    """A function that puts such folders on this process's path and looks again."""
    before = set(sys.modules)
    monkeypatch.delenv(plugins.DISABLE_VARIABLE, raising=False)
    monkeypatch.delenv(dispatch.BACKEND_VARIABLE, raising=False)

    def put(*names):
        for name in names:
            monkeypatch.syspath_prepend(str(installed[name]))
        plugins.backends(refresh=True)

    yield put
    monkeypatch.undo()
    for name in set(sys.modules) - before:
        if "acme" in name:
            del sys.modules[name]
    dispatch._instances.clear()
    plugins.backends(refresh=True)


@pytest.fixture(scope="session")
def run():
    """A function that runs another Python, in which warnings are errors."""
    return partial(child.run, "-W", "error")
