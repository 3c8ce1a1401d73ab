"""Fixtures that the tests of the instruments share."""

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradreg_core.cli.main import main
from gradreg_core.plugins import discovery, dispatch

EXAMPLE = Path(__file__).parents[2] / "examples" / "gradreg_autograd"
ENTRY_POINTS = "[gradreg.backends]\nautograd = gradreg_autograd.plugin\n"


@pytest.fixture
def gradreg():
    """A function that runs a command of ``gradreg``."""
    return lambda *arguments: CliRunner().invoke(main, arguments)


@pytest.fixture
def autograd_plugin(tmp_path_factory, monkeypatch):
    """The third party's backend in examples/, which declares a harness and nothing else, as if it were installed."""
    pytest.importorskip("autograd")
    folder = tmp_path_factory.mktemp("installed")
    metadata = folder / "gradreg_autograd-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gradreg-autograd\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.delenv(discovery.DISABLE_VARIABLE, raising=False)
    for path in (EXAMPLE, folder):
        monkeypatch.syspath_prepend(str(path))
    discovery.backends(refresh=True)
    yield "autograd"
    monkeypatch.undo()
    for name in [name for name in sys.modules if name.startswith("gradreg_autograd")]:
        del sys.modules[name]
    dispatch._instances.clear()
    discovery.backends(refresh=True)
