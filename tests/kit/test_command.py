"""The command ``gradreg conformance``: what it runs, shows and writes, and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import conformance_fakes
import pytest
from click.testing import CliRunner

from gradreg_conformance import runner
from gradreg_conformance.report import read_reports
from gradreg_core.cli.main import main

TESTS = Path(__file__).parent
FAKE, BRAVE = "conformance_fakes:FakeHarness", "conformance_fakes:BraveHarness"


@pytest.fixture
def fakes(monkeypatch):
    """Put fakes in the place of the kit's checks."""
    monkeypatch.setattr(runner, "CHECKS", runner.CHECKS)

    def install(*names):
        conformance_fakes.install(*names)

    return install


def invoke(*arguments):
    return CliRunner().invoke(main, ["conformance", *map(str, arguments)])


def test_a_backend_that_passes(fakes):
    fakes("good", "lacking", "late")
    result = invoke(BRAVE)
    assert result.exit_code == 0
    for line in ("L0 loads", "L4 laws", "not applicable:\n  the fake has one device: lacking", f"{BRAVE}: conforms"):
        assert line in result.output
    assert "2 passed, 1 not applicable; 6 examples" in result.output


def test_a_backend_that_fails_is_shown_how(fakes):
    fakes()
    result = invoke(FAKE, "--device", "npu")
    assert result.exit_code == 1
    assert "bad: failed\nexpected <1>, got 2.\nTo reproduce:\n    print(1)" in result.output
    assert "npu; profile quick" in result.output
    assert "which the harness multiplies by 2" in result.output
    assert f"{FAKE}: does not conform: 1 of 3 checks failed" in result.output


def test_zero_checks_run_is_a_failure(fakes):
    fakes("lacking")
    result = invoke(BRAVE)
    assert result.exit_code == 1
    assert "not tested: no check ran" in result.output


def test_layers_after_a_failure_run_only_where_that_is_asked_for(fakes):
    fakes()
    assert "late not run" in " ".join(invoke(FAKE).output.split())
    assert "late passed" in " ".join(invoke(FAKE, "--keep-going").output.split())


def test_single_checks(fakes):
    fakes()
    result = invoke(FAKE, "--check", "good", "--check", "late")
    assert result.exit_code == 0
    assert "2 chosen checks passed, 3 not chosen" in result.output


def test_reports_are_written_whole(fakes, tmp_path):
    fakes("good", "late")
    page, numbers = tmp_path / "report.html", tmp_path / "report.json"
    result = invoke(BRAVE, "--report", page, "--report", numbers)
    assert result.exit_code == 0
    assert f"Wrote {page}." in result.output
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert [report.verdict for report in read_reports(numbers)] == ["conforms"]
    assert sorted(tmp_path.iterdir()) == [page, numbers]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a backend, such as torch"),
        (["tohrc"], "Did you mean 'torch'"),
        (["conformance_fakes:absent"], "cannot be made"),
        ([BRAVE, "--check", "god"], "there is no check 'god'. Did you mean 'good'? 'gradreg conformance --list'"),
        ([BRAVE, "--device", "tpu"], "no device 'tpu' here; available: cpu, npu"),
        ([BRAVE, "--report", "absent/report.json"], "there is no folder absent. Create it first"),
        ([BRAVE, "--report", "report.txt"], "expected a name that ends in .json or .html"),
        (["--from", "absent.json"], "absent.json: cannot be read as JSON"),
        ([BRAVE, "torch", "tohrc"], "Did you mean 'torch'"),
    ],
)
def test_what_cannot_be_done_has_status_2_and_one_line(fakes, monkeypatch, tmp_path, arguments, message):
    fakes()
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert result.output.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_an_unknown_profile_is_a_usage_error():
    result = invoke(BRAVE, "--profile", "slow")
    assert result.exit_code == 2
    assert "'slow' is not one of 'quick', 'default', 'thorough'" in result.output


def test_the_list_has_every_check_with_its_claim():
    output = " ".join(invoke("--list").output.split())
    for name in runner.all_checks():
        assert name in output


def test_reports_are_put_together_into_a_matrix(fakes, tmp_path):
    fakes()
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    assert invoke(FAKE, "--report", files[0]).exit_code == 1
    assert invoke(BRAVE, "--report", files[1], "--check", "good").exit_code == 0
    page, both = tmp_path / "both.html", tmp_path / "both.json"
    result = invoke("--from", *files, "--report", page, "--report", both)
    assert result.exit_code == 1
    assert "good passed 0.25 passed 0.25" in " ".join(result.output.split())
    assert "Conformance of 2 backends" in page.read_text()
    assert read_reports(both) == [*read_reports(files[0]), *read_reports(files[1])]
    assert invoke("--from", files[1]).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("second", ["BraveHarness", "die"])
def test_several_backends_run_in_processes_of_their_own(second, tmp_path):
    check = next(iter(runner.all_checks()))
    file = tmp_path / "report.json"
    names = [FAKE, f"conformance_fakes:{second}"]
    command = [
        sys.executable,
        "-m",
        "gradreg_core.cli.main",
        "conformance",
        *names,
        f"--check={check}",
        f"--report={file}",
    ]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode in (0, 1), done.stderr
    reports = read_reports(file)
    assert [report.backend for report in reports] == names
    # The fakes' expected failure names none of the kit's checks.
    assert reports[0].verdict == "not tested: the process ended with exit status 2"
    assert "expects 'weak' to fail, and there is no such check" in done.stderr
    if second == "die":
        assert reports[1].error == "the process was ended by SIGKILL"
        assert done.returncode == 1
    else:
        assert [check.name for check in reports[1].checks] == [check]
    assert done.stdout.count("Wrote") == 1
    assert json.loads(file.read_text())["reports"][0]["ok"] is False
