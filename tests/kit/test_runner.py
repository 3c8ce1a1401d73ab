"""How the kit runs checks: statuses, layers, selection, errors, counter-examples."""

import importlib
import re
import sys

import pytest
from conformance_fakes import BAD, GOOD, LACKING, LATE, WEAK, BraveHarness, FakeHarness, made, wrong
from hypothesis import strategies as st

import gradreg_conformance
from gradreg_conformance import run_checks
from gradreg_conformance.check import CHECKS, Disagreement
from gradreg_conformance.parametrize import parametrize_with_checks
from gradreg_conformance.runner import all_checks, run_check, select
from gradreg_conformance.strategies import cases
from gradreg_conformance.subject import Subject
from gradreg_core.errors import BackendNotFoundError, GradregError, InputError, PluginError
from gradreg_core.presets import DataGrad

ALL = [LATE, GOOD, LACKING, BAD, WEAK]


def statuses(report):
    return {check.name: check.status for check in report.checks}


def test_each_check_gets_its_status_and_the_layers_after_a_failure_are_not_run():
    report = run_checks(FakeHarness(), checks=ALL)
    assert statuses(report) == {
        "good": "passed",
        "lacking": "not applicable",
        "bad": "failed",
        "weak": "expected failure",
        "late": "not run",
    }
    good, lacking, bad, weak, late = report.checks
    assert (good.examples, good.worst, good.layer) == (3, 0.25, "loads")
    assert lacking.message == "the fake has one device"
    assert bad.message == "expected <1>, got 2.\nTo reproduce:\n    print(1)"
    assert weak.message == "the fake has no such thing"
    assert late.message == "a check of an earlier layer failed (L2 values)"
    assert not report.ok


def test_all_layers_run_where_that_is_asked_for():
    assert statuses(run_checks(FakeHarness(), checks=ALL, stop=False))["late"] == "passed"


def test_an_expected_failure_stops_nothing_and_passing_it_is_a_failure():
    assert statuses(run_checks(FakeHarness(), checks=[WEAK, LATE])) == {"weak": "expected failure", "late": "passed"}
    strict = made("weak", "values", lambda subject: None)
    report = run_checks(FakeHarness(), checks=[strict, LATE])
    assert statuses(report) == {"weak": "unexpected pass", "late": "not run"}
    assert report.checks[0].message == "expected to fail, and passed: the fake has no such thing"
    assert not report.ok


def test_callbacks_hear_of_each_check_before_and_after():
    heard = []
    run_checks(BraveHarness(), checks=[GOOD, LATE], starting=heard.append, progress=heard.append)
    assert [subject.name for subject in heard] == ["good", "good", "late", "late"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"checks": []}, "expected a list of names of checks"),
        ({"checks": "good"}, "expected a list of names of checks"),
        ({"checks": ["gradients_equal_the_referense"]}, "there is no check 'gradients_equal_the_referense'.*--list"),
        ({"profile": "slow"}, "profile must be one of quick, default, thorough, got 'slow'"),
        ({"device": "tpu"}, "has no device 'tpu' here; available: cpu, npu"),
    ],
)
def test_what_cannot_be_run_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        run_checks(FakeHarness(), **options)


def test_a_device_other_than_the_first_is_the_subjects():
    seen = []
    report = run_checks(BraveHarness(), checks=[made("a", "loads", seen.append)], device="npu")
    assert (seen[0].device, report.device) == ("npu", "npu")


def test_an_absent_backend_is_an_error():
    with pytest.raises(BackendNotFoundError, match="tohrc"):
        run_checks("tohrc")
    with pytest.raises(PluginError, match="'conformance_fakes:absent' cannot be made: AttributeError"):
        run_checks("conformance_fakes:absent")
    with pytest.raises(
        PluginError, match=r"must make a gradreg_conformance\.harness\.Harness, got \{\}; inherit from it"
    ):
        run_checks("builtins:dict")


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ({"wek": "a reason"}, "expects 'wek' to fail, and there is no such check. Did you mean 'weak'"),
        ({"weak": " "}, "gives no reason"),
    ],
)
@pytest.mark.parametrize(
    "front", [run_checks, lambda harness, checks: parametrize_with_checks([harness], checks=checks)]
)
def test_an_expected_failure_must_name_a_check_and_a_reason(front, failures, message):
    harness = FakeHarness()
    harness.expected_failures = failures
    with pytest.raises(PluginError, match=message):
        front(harness, checks=[WEAK, GOOD])


def test_only_an_interrupt_gets_out():
    def interrupt(subject):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_checks(BraveHarness(), checks=[made("a", "loads", interrupt)])


def test_an_error_says_where_it_was_raised_and_how_to_see_it_again():
    subject = Subject("fake", wrong())

    def crash(subject):
        @subject.given(cases(subject.harness, st.just(DataGrad(1.5))))
        def _(case):
            raise RuntimeError("no kernel")

    message = run_check(made("a", "loads", crash), subject).message
    assert re.match(r"RuntimeError: no kernel\n  at .*test_runner.py:\d+ in _\nTo reproduce:\n", message)
    assert message.count("Case(") == 1


def test_an_example_that_is_no_case_is_shown():
    def crash(subject):
        @subject.given(st.integers(0, 9))
        def _(number):
            raise Disagreement("wrong")

    assert "arguments=(0,)" in run_check(made("a", "loads", crash), Subject("fake", FakeHarness())).message


def test_a_check_that_does_not_repeat_itself_shows_every_error():
    seen = []

    def fickle(subject):
        @subject.given(st.integers(0, 99))
        def _(number):
            seen.append(number)
            if len(seen) == 1:
                raise Disagreement("only once")

    message = run_check(made("a", "loads", fickle), Subject("fake", FakeHarness())).message
    assert "Flaky" in message
    assert "only once" in message


def test_examples_do_not_depend_on_what_else_is_imported(tmp_path, monkeypatch):
    def draws():
        seen = []

        def collect(subject):
            @subject.given(*[st.integers(0, 10**9)] * 20)
            def _(*numbers):
                seen.extend(numbers)

        run_check(made("a", "loads", collect), Subject("fake", FakeHarness()))
        return seen

    monkeypatch.chdir(tmp_path)
    before = draws()
    (tmp_path / "acme_numbers.py").write_text(f"NUMBERS = {list(range(1000, 1400))}\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("acme_numbers")
    monkeypatch.delitem(sys.modules, "acme_numbers_not_there", raising=False)
    assert draws() == before
    assert len(before) == 100
    assert not (tmp_path / ".hypothesis").exists()


def test_a_counter_example_is_small_and_its_code_shows_the_disagreement(capsys):
    def gradients(subject):
        @subject.given(cases(subject.harness, st.just(DataGrad(1.5))), cost=1)
        def _(case):
            subject.agree_in_gradients(case)

    (check,) = run_checks("conformance_fakes:wrong", checks=[made("wrong_gradients", "gradients", gradients)]).checks
    assert check.status == "failed"
    code = check.message.partition("To reproduce:\n")[2]
    namespace: dict = {}
    exec("\n".join(line.strip() for line in code.splitlines()), namespace)
    case, shown = namespace["case"], capsys.readouterr().out
    assert "gradients: DIFFER" in shown
    assert "value: agree" in shown
    assert case.batch == 1
    assert len(case.network.layers) <= 3
    assert sum(layer.units for layer in case.network.layers if hasattr(layer, "units")) <= 4
    errors = namespace["compare"]("torch", case)
    assert max(errors.values()) <= 1


def test_reproduce_has_every_word_that_a_case_is_made_of():
    from gradreg_conformance import reproduce
    from gradreg_core import presets, projections, vocabulary
    from gradreg_core.portable import networks

    words = {*networks.__all__, *presets.__all__, *vocabulary.__all__, "Case", "compare", "inf", "nan"}
    words |= {name for name in projections.__all__ if name not in ("DirectionContext", "Projection")}
    assert words <= set(reproduce.__all__)
    assert all(hasattr(reproduce, name) for name in reproduce.__all__)


def test_the_kits_own_checks_are_in_the_order_of_their_layers_and_each_says_what_it_claims():
    layers = [check.layer for check in all_checks().values()]
    assert layers == sorted(layers)
    assert all(check.summary for check in CHECKS.values())
    assert [str(check) for check in select(list(all_checks())[:1])] == list(all_checks())[:1]


def test_the_package_shows_what_it_says():
    assert all(getattr(gradreg_conformance, name).__doc__ for name in gradreg_conformance.__all__)
    assert set(gradreg_conformance.__all__) <= set(dir(gradreg_conformance))
    with pytest.raises(AttributeError, match="no attribute 'run_cheks'"):
        gradreg_conformance.run_cheks  # noqa: B018


def test_a_harness_without_a_name_is_not_asked_for_by_parametrize():
    with pytest.raises(GradregError, match="expected a list of backends"):
        parametrize_with_checks("torch")


def test_compare_holds_what_the_harness_wants_held_while_it_runs(capsys):
    pytest.importorskip("jax")
    from gradreg_conformance.reproduce import Case, SpectReg, compare
    from gradreg_conformance.strategies import SMALL

    assert max(compare("jax", Case(SMALL, SpectReg(1.0))).values()) <= 1
