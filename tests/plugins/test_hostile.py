"""Distributions that raise, exit, hang, print, or give themselves gradreg's name: listed as broken, in limited time."""

import json

import pytest

PRINTS = "import os, sys; print('hello'); os.system('echo shell'); os.write(1, b'bytes')\n"
BACKEND = """
from gradreg_core.plugins.hookspecs import BackendDescription, hookimpl
def _one(name):
    return BackendDescription(name=name, factory="evil:nothing", spec_version=1, install="pip install evil")
"""
MODULES = {
    "evil_base": "class Odd(BaseException): pass\nraise Odd",
    "evil_interrupt": "raise KeyboardInterrupt",
    "evil_message": "class Odd(Exception):\n    def __str__(self): raise ValueError\nraise Odd",
    "evil_hang": "import time; time.sleep(60)",
    "evil_hook": BACKEND + "@hookimpl\ndef gradreg_backends():\n    raise SystemExit(0)",
    "evil_endless": BACKEND + "@hookimpl\ndef gradreg_backends():\n    while True: yield _one('endless')",
    "evil_generator": PRINTS + BACKEND + "@hookimpl\ndef gradreg_backends():\n    yield _one('generated')",
    "evil_torch": BACKEND + "@hookimpl\ndef gradreg_backends():\n    return [_one('shadow')]",
    "evil_wrapper": BACKEND + "@hookimpl(wrapper=True)\ndef gradreg_backends():\n    return (yield)",
}
BROKEN = {
    "evil_base": "importing 'evil_base' failed: Odd",
    "evil_interrupt": "importing 'evil_interrupt' failed: KeyboardInterrupt",
    "evil_message": "importing 'evil_message' failed: Odd: (its message raises ValueError)",
    "evil_hang": "loading 'evil_hang' did not end within 1 seconds; uninstall evil, or give it more with "
    "GRADREG_PLUGIN_SECONDS",
    "evil_hook": "its hook gradreg_backends failed: SystemExit: 0",
    "evil_wrapper": "it has no hook gradreg_backends; mark the function with gradreg_core.plugins.hookspecs.hookimpl",
    "[/red]": "importing 'evil_base' failed: Odd",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Distributions, as an installer leaves them; one calls itself Gradreg, and the metadata of one are damaged."""
    place = tmp_path_factory.mktemp("evil")
    for name, code in MODULES.items():
        (place / f"{name}.py").write_text(code)
    points = {name: name for name in MODULES if name not in ("evil_torch", "evil_endless")}
    points["[/red]"] = "evil_base"
    for name, lines in {"evil": points, "Gradreg": {"torch": "evil_torch"}, "damaged": {"\udcff": "nothing"}}.items():
        info = place / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        text = "".join(f"{point} = {module}\n" for point, module in lines.items())
        (info / "entry_points.txt").write_bytes(f"[gradreg.backends]\n{text}".encode(errors="surrogateescape"))
    return place


@pytest.fixture
def gradreg(run, folder, monkeypatch):
    """A function that runs a command with them; plugins have a second."""

    def command(*arguments):
        code = "import os; os.environ['GRADREG_PLUGIN_SECONDS'] = '1'; from gradreg_core.cli.main import main; main()"
        return run("-c", code, *arguments, paths=[folder])

    return command


def test_json_is_all_that_is_printed_whatever_plugins_do(gradreg):
    done = gradreg("backends", "--json")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert {name: rows[name]["reason"] for name in BROKEN} == BROKEN
    assert {rows[name]["status"] for name in BROKEN} == {"broken"}
    assert rows["generated"]["status"] == "ok", "a hook may be a generator"
    assert (rows["torch"]["distribution"], rows["shadow"]["distribution"]) == ("gradreg", "Gradreg")
    assert rows["torch"]["status"] == "ok"
    assert {"hello", "shell"} <= set(done.stderr.split())
    names = list(rows)
    assert names.index("shadow") > names.index("tensorflow"), "a name makes nothing built in"


def test_the_doctor_reports_them_and_looks_at_the_others(gradreg):
    done = gradreg("doctor", "numpy", "--timeout", "60")
    assert done.returncode == 1
    assert "numpy: ok: numpy" in done.stdout
    assert (
        "problem: evil 1.0 (entry point 'evil_hang'): loading 'evil_hang' did not end within 1 seconds" in done.stdout
    )
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_names_that_are_markup_or_cannot_be_encoded_are_printed(gradreg):
    done = gradreg("backends")
    assert done.returncode == 0, done.stderr
    assert "[/red]: importing 'evil_base' failed: Odd" in done.stdout
    done = gradreg("doctor", "\udcff")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: load_backend('\\udcff'): no backend of this name is registered." in done.stderr
