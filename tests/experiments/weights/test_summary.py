"""One default per form, judged on tasks that had no part in choosing it."""

import pytest

from gradreg_experiments.results import Results
from gradreg_experiments.weights.summary import forms, interval, judge

TASKS = ("digits", "digits, inputs x10", "wine", "rings")


def result(rule, scores, tasks=TASKS):
    """Results of a rule with settings 1, 2, ...: scores by task and setting, validation 1 below the test."""
    for task, row in zip(tasks, scores, strict=True):
        runs = [
            {"setting": [setting], "validation": [score - 1.5, score - 0.5], "test": [score - 0.5, score + 0.5]}
            | {"norm": [1.0, 3.0], "start": [1.0, 1.0]}
            for setting, score in enumerate(row, start=1)
        ]
        yield {"key": f"{rule}/{task}", "task": task, "rule": rule, "penalty": "spectreg", "runs": runs}


@pytest.fixture
def three():
    """No penalty, a plain weight, and a form."""
    results = Results()
    rows = {
        "none": [[50], [50], [50], [50]],
        "plain": [[60, 55], [51, 65], [70, 55], [70, 60]],
        "inputs": [[90, 40], [90, 40], [50, 62], [50, 61]],
    }
    for rule, scores in rows.items():
        for own in result(rule, scores):
            results.add(own)
    return {form.rule: form for form in forms(results, TASKS)}


def test_a_default_is_chosen_on_other_data(three):
    form = three["inputs"]
    assert form.best(form.outcomes) == (1,)
    assert form.other_data("digits") == form.other_data("digits, inputs x10"), "both are left out"
    assert form.best(form.other_data("digits")) == (2,)
    assert form.best(form.other_data("wine")) == (1,)
    assert form.outcomes["wine"][1,].norm == 2


def test_a_short_list_is_of_settings_that_help_where_others_do_not():
    results = Results()
    rows = {"none": [[50], [50], [50], [90]], "inputs": [[60, 61, 40], [60, 61, 40], [40, 41, 70], [0, 0, 0]]}
    for rule, scores in rows.items():
        for own in result(rule, scores):
            results.add(own)
    none, form = forms(results, TASKS)
    assert form.best(form.outcomes) == (2,)
    assert form.short_list(form.outcomes, none) == ((2,), (3,))
    assert form.try_out([(2,), (3,)], "wine", none) == form.outcomes["wine"][3,]
    assert form.try_out([(2,), (3,)], "rings", none) == none.outcomes["rings"][1,]
    assert none.short_list(none.outcomes, none) == ((1,),)


def test_regret_is_to_the_plain_weight_that_is_tuned_on_the_task(three):
    judged = judge(three["inputs"], three["none"], three["plain"])
    assert judged.regret == {
        "digits": [20, 20],
        "digits, inputs x10": [25, 25],
        "wine": [20, 20],
        "rings": [20, 20],
    }
    assert judged.tuned_regret["wine"] == [8, 8]
    assert judged.tuned_regret["digits"] == [-30, -30]
    assert judged.short_regret["digits"] == [-30, -30]
    assert judged.short_regret["wine"] == [8, 8]
    assert judged.gain["digits"] == [-10, -10]


def test_tasks_that_a_form_lacks_are_left_out_of_all():
    results = Results()
    for own in (*result("none", [[1], [1], [1]], TASKS[:3]), *result("plain", [[1], [2]], TASKS[1:3])):
        results.add(own)
    assert [list(form.outcomes) for form in forms(results, TASKS)] == [["digits, inputs x10", "wine"]] * 2


def test_the_interval_is_student_s():
    assert interval([1.0, 2.0, 3.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
