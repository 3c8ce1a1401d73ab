"""`gradreg doctor`."""

import re
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from gradreg_core.cli.doctor import probe
from gradreg_core.cli.main import main
from gradreg_core.plugins import discovery as plugins
from gradreg_core.plugins import dispatch


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
    assert lines[-2:] == [
        f"acme: ok: numpy {np.__version__}; devices: anvil:0",
        "acme-primitives: ok: no modules needed",
    ]


def test_the_doctor_reports_what_crashes(on_path):
    on_path("working", "broken")
    status, output = doctor("acme-crashing", "acme-fails", "acme-absent")
    lines = output.splitlines()
    assert status == 1
    assert "acme-crashing: FAILED: importing it was ended by SIGKILL" in lines
    assert "problem: acme-crashing: importing it was ended by SIGKILL" in lines
    assert re.search(r"^acme-fails: FAILED: importing it ended with exit status 1: .*libacme\.so\.1", output, re.M)
    assert re.search(r"^problem: load_backend\('acme-absent'\): .*pip install acme-absent-framework$", output, re.M)
    assert re.search(r"^problem: gradreg-acme-misspelt 1\.2\.0 \(entry point 'acme-misspelt'\): ", output, re.M)
    assert re.search(r"^problem: doctor: duplicate name: 'doctor' is a command of gradreg .*", output, re.M)
    assert re.search(r"^problem: gradreg-acme-broken 1\.2\.0 \(entry point 'acme-none'\): it has no hook", output, re.M)


@pytest.mark.slow
def test_the_doctor_does_not_wait_for_ever(on_path):
    on_path("broken")
    (record,) = [record for record in plugins.backends() if record.name == "acme-hanging"]
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
