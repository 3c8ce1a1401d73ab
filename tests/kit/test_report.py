"""The report: verdicts, JSON there and back, and the page."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from conformance_fakes import BAD, GOOD, LACKING, LATE, WEAK, BraveHarness, FakeHarness, made

from gradreg_conformance import run_checks
from gradreg_conformance.page import MARKS, to_html
from gradreg_conformance.report import SCHEMA, STATUSES, Report, ratio, read_reports, to_json
from gradreg_core.errors import DataFileError

ALL = [LATE, GOOD, LACKING, BAD, WEAK]


def whole(report):
    """The report as if its checks were all that the kit has."""
    return replace(report, left_out=())


def broken(error):
    """The report of a run that ended before it had results."""
    return Report(backend="acme", profile="quick", device="", error=error)


@pytest.fixture
def failed():
    return whole(run_checks(FakeHarness(), checks=ALL))


@pytest.fixture
def passed():
    return whole(run_checks(BraveHarness(), checks=[GOOD, LACKING, LATE]))


def test_it_says_what_was_tested_where_and_how(failed):
    assert failed.backend == "conformance_fakes:FakeHarness"
    assert failed.versions["fake"] == "1.2"
    assert {"python", "numpy", "hypothesis", "gradreg"} < set(failed.versions)
    assert (failed.device, failed.modes, failed.dtypes) == ("cpu", ("eager", "jit"), ("float64", "float32"))
    assert (failed.tolerance, failed.profile) == (2.0, "quick")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", failed.date)
    assert (failed.examples, failed.ran) == (3, 3)
    assert failed.worst == 0.25
    assert failed.totals == dict.fromkeys(STATUSES, 0) | dict.fromkeys(
        ["passed", "failed", "expected failure", "not applicable", "not run"], 1
    )


def test_capabilities_are_those_of_the_description():
    pytest.importorskip("torch")
    report = run_checks("torch", checks=[made("a", "loads", lambda subject: None)])
    assert report.capabilities == ("host_checks", "named_activations")
    assert {"Dense", "LayerNorm"} < set(report.layers)


def test_it_says_what_its_verdict_stands_under(failed):
    counted = replace(failed.checks[0], pairs=(3, 4))
    conditions = replace(failed, checks=(counted, *failed.checks[1:]), left_out=("other",)).conditions
    assert conditions == {
        "Tolerance": "2 times the measured",
        "Skipped": "lacking",
        "Not run": "late",
        "Expected to fail": "weak",
        "Not chosen": "other",
        "Left out by the harness": ", ".join(failed.defaults),
        "Pairs of options": "3 of 4, 75 %",
    }
    assert {"own_model", "traces"} <= set(failed.defaults)
    for name, text in failed.conditions.items():
        assert f"<dt>{name}</dt><dd>{text}</dd>" in to_html([failed])


def test_a_report_of_before_that_is_read(failed):
    values = json.loads(to_json([failed]))["reports"][0]
    del values["defaults"]
    for check in values["checks"]:
        del check["pairs"]
    assert Report.from_dict(values) == replace(failed, defaults=())


def test_verdicts(failed, passed):
    assert (failed.verdict, failed.ok) == ("does not conform: 1 of 3 checks failed", False)
    assert (passed.verdict, passed.ok) == ("conforms", True)
    weak = whole(run_checks(FakeHarness(), checks=[WEAK, GOOD]))
    assert (weak.verdict, weak.ok) == ("conforms, but for 1 expected failure", True)
    part = replace(passed, left_out=("other", "more"))
    assert (part.verdict, part.ok) == ("2 chosen checks passed, 2 not chosen", True)


def test_zero_checks_run_is_a_failure(passed):
    idle = whole(run_checks(BraveHarness(), checks=[LACKING]))
    assert (idle.verdict, idle.ok) == ("not tested: no check ran", False)
    ended = broken("the process was ended by SIGSEGV")
    assert (ended.verdict, ended.ok) == ("not tested: the process was ended by SIGSEGV", False)


def test_checks_that_were_not_chosen_are_named(passed):
    from gradreg_conformance.runner import all_checks

    assert run_checks(BraveHarness(), checks=[GOOD]).left_out == tuple(all_checks())


def test_json_there_and_back(failed, passed, tmp_path):
    infinite = replace(failed, checks=(replace(failed.checks[0], worst=float("inf")), *failed.checks[1:]))
    reports = [failed, passed, infinite, broken("gone")]
    path = tmp_path / "report.json"
    path.write_text(to_json(reports))
    assert read_reports(path) == reports
    content = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert (content["schema"], content["kind"]) == (SCHEMA, "gradreg conformance")
    assert [report["ok"] for report in content["reports"]] == [False, True, False, False]
    assert content["reports"][0]["totals"]["failed"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: [], "is not a report"),
        (lambda content: content | {"kind": "other"}, "is not a report"),
        (
            lambda content: content | {"schema": SCHEMA + 1},
            f"schema {SCHEMA + 1}, this gradreg reads {SCHEMA}; upgrade",
        ),
        (lambda content: content | {"reports": [{}]}, "is damaged: KeyError: 'backend'"),
        (lambda content: content | {"reports": 3}, "is damaged: TypeError"),
        (lambda content: content | {"reports": [content["reports"][0] | {"checks": [{"layer": "x"}]}]}, "is damaged"),
    ],
)
def test_other_files_are_refused(passed, tmp_path, change, message):
    path = tmp_path / "report.json"
    path.write_text(json.dumps(change(json.loads(to_json([passed])))))
    with pytest.raises(DataFileError, match=message):
        read_reports(path)


def test_a_file_that_is_absent_or_no_json_is_refused(tmp_path):
    with pytest.raises(DataFileError, match="cannot be read as JSON"):
        read_reports(tmp_path / "absent.json")
    (tmp_path / "text.json").write_text("<html>")
    with pytest.raises(DataFileError, match="cannot be read as JSON"):
        read_reports(tmp_path / "text.json")


@pytest.mark.parametrize(
    ("worst", "text"),
    [(None, ""), (0.0, "0.00"), (0.256, "0.26"), (99.0, "99.00"), (4.1e13, "4e+13"), (float("inf"), "inf")],
)
def test_ratios_are_short(worst, text):
    assert ratio(worst) == text


class Page(HTMLParser):
    """The text of a page, its tags, and whether they are closed."""

    VOID = ("meta", "br", "circle", "path")

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_the_page_stands_alone_and_is_well_formed(failed, passed):
    for reports in ([failed], [passed], [failed, passed, broken("gone")]):
        source = to_html(reports)
        page = Page(source)
        assert page.open == []
        assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in page.tags}
        assert not [attrs for _, attrs in page.tags if "src" in attrs or not attrs.get("href", "#").startswith("#")]
        assert "http" not in source
        assert "url(" not in source
        identifiers = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(identifiers) == len(set(identifiers))
        links = {attrs["href"][1:] for _, attrs in page.tags if "href" in attrs}
        assert links <= set(identifiers)


def test_the_page_shows_every_check_with_status_and_message(failed):
    text = Page(to_html([failed])).text
    for check in failed.checks:
        assert f"{check.name} {check.summary} {MARKS[check.status]} {check.status}" in text
    assert "expected <1>, got 2. To reproduce: print(1)" in text
    assert "the fake has one device" in text
    assert "✗ conformance_fakes:FakeHarness: does not conform: 1 of 3 checks failed" in text
    assert "fake 1.2" in text
    assert "2 times the measured" in text
    assert text.startswith("Conformance report: conformance_fakes:FakeHarness")


def test_only_a_whole_pass_is_a_certificate(failed, passed):
    assert "Certificate of conformance" in to_html([passed])
    assert "Certificate" not in to_html([failed])
    assert "Certificate" not in to_html([replace(passed, left_out=("other",))])
    declared = tuple(replace(check, status="expected failure") for check in passed.checks)
    assert "Certificate" not in to_html([replace(passed, checks=declared)])
    assert (
        "Not chosen, so nothing is said of them: other." in Page(to_html([replace(passed, left_out=("other",))])).text
    )


def test_marks_tell_statuses_apart_without_colour():
    assert set(MARKS) == set(STATUSES)
    assert {MARKS[status] for status in ("failed", "unexpected pass")}.isdisjoint(
        MARKS[status] for status in STATUSES if status not in ("failed", "unexpected pass")
    )


def test_several_reports_make_a_matrix(failed, passed):
    text = Page(to_html([failed, passed, broken("gone")])).text
    assert "Conformance of 3 backends" in text
    assert "good ✓ 0.25 ✓ 0.25 not tested" in text
    assert "bad ✗ failed 40.00 not chosen not tested" in text
    assert "acme: not tested: gone" in text


def test_what_a_backend_says_is_escaped(passed):
    check = replace(passed.checks[0], status="failed", message="<script>alert('&')</script>")
    source = to_html([replace(passed, backend="<b>", checks=(check,))])
    assert "<script" not in source
    assert "<b>" not in source
    assert "<script>alert('&')</script>" in Page(source).text


def test_the_page_has_rules_for_dark_screens_phones_and_paper(passed):
    source = to_html([passed])
    for rule in ("prefers-color-scheme: dark", "@media (max-width", "@media print", "size: A4"):
        assert rule in source
