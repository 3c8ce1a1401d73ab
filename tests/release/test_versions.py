"""The page on versions is made from the results."""

import importlib.util
import json

from documents import DOCS

_spec = importlib.util.spec_from_file_location("versions_page", DOCS / "versions.py")
versions = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(versions)


def report(version, passed, failed):
    totals = {"passed": passed, "failed": failed, "not applicable": 1, "not run": 0}
    return {"reports": [{"backend": "jax", "versions": {"jax": version, "python": "3.11.7"}, "totals": totals}]}


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
    assert "| jax | 3.11.7 | jax 0.6.0 | 124 | 0 | 1 | 5 | 2 |" in versions.table(again)
