"""Python in a child process."""

import os
import sys

from gradreg_core.cli.processes import run_python


def test_a_child_has_arguments_input_and_environment(monkeypatch):
    monkeypatch.setenv("ACME_KEPT", "kept")
    code = "import os, sys; print(sys.argv[1:], sys.stdin.read(), os.environ['ACME_KEPT'], os.environ['ACME_NEW'])"
    result = run_python("-c", code, "one", stdin="text", environment={"ACME_NEW": "new"})
    assert (result.status, result.stdout, result.stderr) == (0, "['one'] text kept new\n", "")
    assert result.ending == "ended with exit status 0"


def test_a_child_finds_the_modules_of_this_process(tmp_path, monkeypatch):
    (tmp_path / "acme_module.py").write_text("print('found')")
    (tmp_path / "json.py").write_text("raise RuntimeError('a module in the working directory shadows the library')")
    assert "acme_module" in run_python("-c", "import acme_module").ending
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "acme_module.py").write_text("print('found')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(elsewhere))
    assert run_python("-c", "import json, acme_module").stdout == "found\n"
    monkeypatch.setattr(sys, "path", ["", *(entry for entry in sys.path if entry != str(elsewhere))])
    assert run_python("-c", "import acme_module").stdout == "found\n"


def test_the_last_line_of_stderr_says_why_a_child_failed():
    result = run_python("-c", "raise ValueError('no such file')")
    assert (result.status, result.ending) == (1, "ended with exit status 1: ValueError: no such file")
    assert run_python("-c", "raise SystemExit(3)").ending == "ended with exit status 3"


def test_a_crash_and_a_hang_are_results():
    killed = run_python("-c", "import os; os.kill(os.getpid(), 9)")
    assert (killed.status, killed.ending) == (-9, "was ended by SIGKILL")
    real_time = run_python("-c", "import os; os.kill(os.getpid(), 40)")
    assert (real_time.status, real_time.ending) == (-40, "was ended by signal 40")
    hanging = run_python("-c", "import time; time.sleep(60)", timeout=0.5)
    assert (hanging.status, hanging.ending) == (None, "did not end within 0.5 seconds")


def test_output_need_not_be_captured(capfd):
    result = run_python("-c", "print('shown')", capture=False)
    assert (result.stdout, capfd.readouterr().out) == ("", "shown\n")


def test_output_that_is_not_utf8_does_no_harm():
    result = run_python("-c", "import os; os.write(1, bytes([255, 10]))", environment={**os.environ})
    assert result.stdout == "\ufffd\n"
