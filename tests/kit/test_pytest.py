"""The pytest front of the conformance kit, from an unrelated folder with an unrelated configuration."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SUITE = ["-p", "gradreg_conformance.plugin", "--pyargs", "gradreg_conformance.suite"]
FAKE, BRAVE, OTHER = (f"conformance_fakes:{name}Harness" for name in ("Fake", "Brave", "Other"))


@pytest.fixture
def run(tmp_path):
    """Run pytest in an empty folder, with fakes in the place of the kit's checks."""

    def run(*arguments, fakes=()):
        if fakes is not None:
            (tmp_path / "conftest.py").write_text(f"import conformance_fakes\nconformance_fakes.install(*{fakes!r})\n")
        environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTEST_ADDOPTS": "", "COLUMNS": "150"}
        environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # those of other packages take two seconds to load
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


def test_one_test_per_check_with_its_status(run):
    status, output = run(*SUITE, "--gradreg-backend", FAKE, "-v", "-rA")
    assert status == 1
    for name, word in [("good", "PASSED"), ("bad", "FAILED"), ("weak", "XFAIL"), ("lacking", "SKIPPED")]:
        assert re.search(rf"test_conformance\.py::test_conformance\[{FAKE}-{name}\] {word}", output), output
    assert "not applicable: the fake has one device" in output
    assert "not run: a check of an earlier layer failed (L2 values)" in output
    assert "expected <1>, got 2.\nTo reproduce:\n    print(1)" in output
    assert "the fake has no such thing" in output
    assert f"gradreg conformance: {FAKE}; profile quick" in output
    assert (
        f"{FAKE} (fake 1.2; cpu; quick): 1 passed, 1 not applicable, 1 failed, 1 expected failure, 1 not run" in output
    )


def test_the_summary_names_the_backends_that_ran(run):
    options = ["--gradreg-backend", FAKE, "--gradreg-backend", BRAVE, "--gradreg-device", "npu"]
    status, output = run(*SUITE, *options, "--gradreg-profile", "default", fakes=("good", "weak"))
    assert status == 1
    assert f"{FAKE} (fake 1.2; npu; default): 1 passed, 1 expected failure; worst error 0.25 of what rounding" in output
    assert f"{BRAVE} (fake 1.2; npu; default): 1 passed, 1 failed" in output
    assert "1 failed, 2 passed, 1 xfailed" in output


def test_passing_what_was_expected_to_fail_is_a_failure(run, tmp_path):
    (tmp_path / "strict.py").write_text(
        "import conformance_fakes as fakes\n"
        "class Strict(fakes.FakeHarness):\n"
        "    expected_failures = {'good': 'it is broken'}\n"
    )
    status, output = run(*SUITE, "--gradreg-backend", "strict:Strict", fakes=("good",))
    assert status == 1
    assert "expected to fail, and passed: it is broken" in output


def test_all_layers_run_where_that_is_asked_for(run):
    _, output = run(*SUITE, "--gradreg-backend", FAKE, "--gradreg-keep-going")
    assert "2 passed, 1 not applicable, 1 failed, 1 expected failure;" in output.replace(
        "1 not applicable, 1", "1 not applicable, 1"
    )
    assert "not run" not in output


@pytest.mark.parametrize(("options", "fakes"), [(["-k", "absent"], ()), ([], ("lacking",))])
def test_zero_checks_run_is_a_failure(run, options, fakes):
    status, output = run(*SUITE, "--gradreg-backend", BRAVE, *options, fakes=fakes)
    assert status == 1
    assert f"{BRAVE}: FAILED, no check ran" in output


def test_one_backend_of_two_without_a_check_is_a_failure(run):
    status, output = run(*SUITE, "--gradreg-backend", BRAVE, "--gradreg-backend", OTHER, "-k", "Brave", fakes=("good",))
    assert status == 1
    assert f"{BRAVE} (fake 1.2; cpu; quick): 1 passed" in output
    assert f"{OTHER}: FAILED, no check ran" in output


def test_a_list_of_tests_is_no_failure(run):
    assert run(*SUITE, "--gradreg-backend", BRAVE, "--collect-only", fakes=("good",))[0] == 0


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--gradreg-backend", "tohrc"], 4, "Did you mean 'torch'"),
        (["--gradreg-backend", BRAVE, "--gradreg-device", "tpu"], 2, "no device 'tpu' here"),
        ([], 2, "no backend was named; run it with"),
    ],
)
def test_what_cannot_be_run_is_an_error(run, options, status, message):
    ended, output = run(*SUITE, *options)
    assert ended == status
    assert message in output
    assert "Traceback" not in output


def test_expected_failures_must_be_checks(run):
    status, output = run(*SUITE, "--gradreg-backend", FAKE, fakes=("good",))
    assert status == 2
    assert "expects 'weak' to fail, and there is no such check" in output


def test_without_the_plugin_the_suite_says_what_is_missing(run):
    status, output = run("--pyargs", "gradreg_conformance.suite")
    assert status == 2
    assert "pytest -p gradreg_conformance.plugin --pyargs gradreg_conformance.suite --gradreg-backend NAME" in output


def test_it_is_no_plugin_of_other_peoples_runs(run, tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test_it():\n    assert 'gradreg_conformance' not in sys.modules\n"
    )
    assert run("test_other.py", fakes=None)[0] == 0


def test_under_xdist(run):
    pytest.importorskip("xdist")
    status, output = run(*SUITE, "--gradreg-backend", BRAVE, "-p", "xdist", "-n", "1", fakes=("good", "late"))
    assert status == 0
    assert f"{BRAVE} (fake 1.2; cpu; quick): 2 passed; worst error 0.25 of what rounding allows" in output


@pytest.mark.slow
def test_the_real_checks_run_from_anywhere(run):
    pytest.importorskip("torch")
    status, output = run(*SUITE, "--gradreg-backend", "torch", "--collect-only", "-q", fakes=None)
    assert status == 0
    assert "test_conformance.py::test_conformance[torch-" in output


def test_checks_in_a_test_suite_of_ones_own(run, tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "import conformance_fakes as fakes\n"
        "from gradreg_conformance import parametrize_with_checks\n"
        "class Strict(fakes.FakeHarness):\n"
        "    expected_failures = {'good': 'it is broken'}\n"
        "@parametrize_with_checks(['conformance_fakes:FakeHarness', Strict()])\n"
        "def test_conformance(check, subject):\n"
        "    check(subject)\n"
        "@parametrize_with_checks([fakes.BraveHarness()], checks=['late'], profile='default', device='npu')\n"
        "def test_one(check, subject):\n"
        "    assert (subject.profile.name, subject.device) == ('default', 'npu')\n"
        "    check(subject)\n"
    )
    status, output = run("test_mine.py", "-v")
    assert status == 1
    words = dict(re.findall(r"(\S+) (PASSED|FAILED|SKIPPED|XFAIL)", output))
    assert {key.partition("::")[2]: word for key, word in words.items() if "::" in key} == {
        "test_conformance[conformance_fakes:FakeHarness-good]": "PASSED",
        "test_conformance[conformance_fakes:FakeHarness-lacking]": "SKIPPED",
        "test_conformance[conformance_fakes:FakeHarness-bad]": "FAILED",
        "test_conformance[conformance_fakes:FakeHarness-weak]": "XFAIL",
        "test_conformance[conformance_fakes:FakeHarness-late]": "PASSED",
        "test_conformance[test_mine:Strict-good]": "FAILED",
        "test_conformance[test_mine:Strict-lacking]": "SKIPPED",
        "test_conformance[test_mine:Strict-bad]": "FAILED",
        "test_conformance[test_mine:Strict-weak]": "FAILED",
        "test_conformance[test_mine:Strict-late]": "PASSED",
        "test_one[conformance_fakes:BraveHarness-late]": "PASSED",
    }
    assert "[XPASS(strict)] it is broken" in output
