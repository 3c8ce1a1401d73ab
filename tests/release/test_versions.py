"""The page on versions is made from the results."""

import importlib.util
import json
import sys

import pytest

from documents import DOCS

_spec = importlib.util.spec_from_file_location("versions_page", DOCS / "versions.py")
versions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(versions)


def report(version, passed, failed):
    totals = {"passed": passed, "failed": failed, "not applicable": 1, "not run": 0}
    versions = {"jax": version, "python": "3.11.7"}
    return {
        "reports": [{"backend": "jax", "versions": versions, "totals": totals, "date": "2026-11-27T23:36:23+00:00"}]
    }


def test_the_page_has_the_table_of_the_results():
    text, results = versions.PAGE.read_text(), json.loads(versions.RESULTS.read_text())
    assert versions.page(text, results) == text
    assert results


def test_results_are_added_by_their_versions():
    junit = '<testsuites><testsuite tests="9" failures="1" errors="1" skipped="2"/></testsuites>'
    known = versions.merged([], versions.rows(report("0.10.2", 124, 0)) + versions.rows(report("0.6.0", 3, 4)))
    again = versions.merged(known, versions.rows(report("0.6.0", 124, 0), junit))
    assert [row["versions"]["jax"] for row in again] == ["0.6.0", "0.10.2"]
    assert again[0]["kit"] == {"passed": 124, "failed": 0, "not applicable": 1}
    assert again[0]["tests"] == {"passed": 5, "failed": 2}
    assert versions.failures(again) == ["jax: 2 tests failed, 5 passed"]
    assert "| jax | 3.11.7 | jax 0.6.0 | 124 | 0 | 1 | 5 | 2 | 2026-11-27 |" in versions.table(again)


def test_the_script_fails_after_it_has_written_what_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(versions, "RESULTS", tmp_path / "versions.json")
    monkeypatch.setattr(versions, "PAGE", tmp_path / "versions.md")
    versions.RESULTS.write_text("[]")
    versions.PAGE.write_text(f"{versions.HEADER}\n\n")
    (tmp_path / "tests.xml").write_text(
        '<testsuites><testsuite tests="0" failures="0" errors="0" skipped="0"/></testsuites>'
    )
    for name, passed, failed, message in [
        ("good", 124, 0, ""),
        ("bad", 123, 1, "1 checks failed"),
        ("none", 0, 0, "0 passed"),
    ]:
        (tmp_path / f"{name}.json").write_text(json.dumps(report("0.6.0", passed, failed)))
        monkeypatch.setattr(sys, "argv", ["versions.py", str(tmp_path / f"{name}.json")])
        if not message:
            versions.main()
            continue
        with pytest.raises(SystemExit, match=message):
            versions.main()
        assert json.loads(versions.RESULTS.read_text())[0]["kit"]["failed"] == failed
    monkeypatch.setattr(
        sys, "argv", ["versions.py", str(tmp_path / "good.json"), "--tests", str(tmp_path / "tests.xml")]
    )
    with pytest.raises(SystemExit, match="0 tests failed, 0 passed"):
        versions.main()
