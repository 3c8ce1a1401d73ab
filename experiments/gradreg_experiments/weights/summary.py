"""The value of each form's default, on tasks not used to choose it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from gradreg_experiments.results import Results
from gradreg_experiments.weights.rules import RULES, Setting
from gradreg_experiments.weights.tasks import TASKS

__all__ = ["Form", "Judged", "Outcome", "forms", "interval", "judge"]

_DATA = {task.name: task.data for task in TASKS}


@dataclass(frozen=True)
class Outcome:
    """Accuracies in percent by seed, of one setting on one task."""

    validation: tuple[float, ...]
    test: tuple[float, ...]
    norm: float | None
    """The mean of n at the end; None if a run diverged."""

    @property
    def score(self) -> float:
        """The mean validation accuracy, by which settings are chosen."""
        return fmean(self.validation)


@dataclass(frozen=True)
class Form:
    """A rule and all its outcomes."""

    penalty: str
    rule: str
    outcomes: dict[str, dict[Setting, Outcome]]
    """The outcomes by task, then by setting."""

    @property
    def settings(self) -> list[Setting]:
        """The settings in the order of their list."""
        return list(next(iter(self.outcomes.values())))

    def best(self, tasks: Iterable[str]) -> Setting:
        """The setting with the highest mean validation accuracy over the tasks; the first of equals."""
        names = list(tasks)
        return max(self.settings, key=lambda setting: fmean(self.outcomes[name][setting].score for name in names))

    def short_list(self, tasks: Iterable[str], none: "Form") -> tuple[Setting, ...]:
        """The two settings to try beside no penalty, if the best of the three is kept on each task."""
        names = list(tasks)

        def kept(settings: tuple[Setting, ...]) -> float:
            return fmean(self.try_out(settings, name, none).score for name in names)

        return max(combinations(self.settings, min(2, len(self.settings))), key=kept)

    def try_out(self, settings: Iterable[Setting], task: str, none: "Form") -> Outcome:
        """The best of no penalty and these settings by validation accuracy on the task; the first of equals."""
        tried = [*none.outcomes[task].values(), *(self.outcomes[task][setting] for setting in settings)]
        return max(tried, key=lambda outcome: outcome.score)

    def other_data(self, task: str) -> list[str]:
        """The tasks whose data differ from this task's."""
        return [name for name in self.outcomes if _DATA[name] != _DATA[task]]


@dataclass(frozen=True)
class Judged:
    """A form beside the tuned plain weight of SpectReg. Test accuracies in points, by task, then by seed."""

    form: Form
    none: Form
    regret: dict[str, list[float]]
    """The tuned plain weight minus the form's default."""
    tuned_regret: dict[str, list[float]]
    """The same with the form's setting tuned on the task itself."""
    short_regret: dict[str, list[float]]
    """The same with the best of no penalty and the two settings of the short list chosen on other data."""
    gain: dict[str, list[float]]
    """The form's default minus no penalty."""

    @property
    def means(self) -> list[float]:
        """The mean regret of each task."""
        return [fmean(values) for values in self.regret.values()]


def forms(results: Results, tasks: Sequence[str]) -> list[Form]:
    """All forms that have results, on the tasks on which all of them have been run."""
    by_rule: dict[tuple[str, str], dict[str, dict[Setting, Outcome]]] = {}
    for result in results:
        if result["task"] in tasks:
            outcomes = {tuple(run["setting"]): _outcome(run) for run in result["runs"]}
            by_rule.setdefault((result["penalty"], result["rule"]), {})[result["task"]] = outcomes
    complete = [task for task in tasks if all(task in own for own in by_rule.values())]
    order = {(rule.penalty, rule.name): place for place, rule in enumerate(RULES)}
    return [
        Form(*names, {task: by_rule[names][task] for task in complete})
        for names in sorted(by_rule, key=lambda names: order[names])
    ]


def _outcome(run: Mapping[str, Any]) -> Outcome:
    norm = None if None in run["norm"] else fmean(run["norm"])
    return Outcome(tuple(run["validation"]), tuple(run["test"]), norm)


def judge(form: Form, none: Form, plain: Form) -> Judged:
    """Compare one form with no penalty and with the plain weight tuned on each task by validation accuracy."""
    regret, tuned, short, gain = {}, {}, {}, {}
    for task, own in form.outcomes.items():
        others = form.other_data(task)
        aim = plain.outcomes[task][plain.best([task])].test
        default = own[form.best(others)].test
        (base,) = (outcome.test for outcome in none.outcomes[task].values())
        regret[task] = _differences(aim, default)
        tuned[task] = _differences(aim, own[form.best([task])].test)
        short[task] = _differences(aim, form.try_out(form.short_list(others, none), task, none).test)
        gain[task] = _differences(default, base)
    return Judged(form, none, regret, tuned, short, gain)


def interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(first, second, strict=True)]
