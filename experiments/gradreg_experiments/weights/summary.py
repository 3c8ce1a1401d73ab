"""What one default of each form is worth, on tasks that had no part in choosing it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from gradreg_experiments.results import Results
from gradreg_experiments.weights.rules import Setting
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


@dataclass(frozen=True)
class Form:
    """A rule and all its outcomes."""

    penalty: str
    rule: str
    outcomes: dict[str, dict[Setting, Outcome]]
    """By task, then by setting."""

    def best(self, tasks: Iterable[str]) -> Setting:
        """The setting of the highest mean validation accuracy over the tasks; the earlier of two equals."""
        names = list(tasks)
        return max(
            next(iter(self.outcomes.values())),
            key=lambda setting: fmean(fmean(self.outcomes[name][setting].validation) for name in names),
        )

    def default_for(self, task: str) -> Setting:
        """The default chosen on the tasks with other data."""
        return self.best(name for name in self.outcomes if _DATA[name] != _DATA[task])


@dataclass(frozen=True)
class Judged:
    """A form beside the tuned plain weight of SpectReg. Test accuracy in points, by task, and there by seed."""

    form: Form
    regret: dict[str, list[float]]
    """The tuned plain weight less the form's default."""
    tuned_regret: dict[str, list[float]]
    """The same with the form's setting tuned on the task itself."""
    gain: dict[str, list[float]]
    """The form's default less no penalty."""

    @property
    def means(self) -> list[float]:
        """The mean regret of each task."""
        return [fmean(values) for values in self.regret.values()]


def forms(results: Results) -> list[Form]:
    """All forms, in the order of the results, on the tasks that all of them have been run on."""
    outcomes: dict[tuple[str, str], dict[str, dict[Setting, Outcome]]] = {}
    for result in results:
        by_setting = {
            tuple(run["setting"]): Outcome(
                tuple(run["validation"]),
                tuple(run["test"]),
                None if None in run["norm"] else fmean(run["norm"]),
            )
            for run in result["runs"]
        }
        outcomes.setdefault((result["penalty"], result["rule"]), {})[result["task"]] = by_setting
    complete = [task.name for task in TASKS if all(task.name in tasks for tasks in outcomes.values())]
    return [Form(*names, {name: tasks[name] for name in complete}) for names, tasks in outcomes.items()]


def judge(form: Form, none: Form, plain: Form) -> Judged:
    """Compare one form with no penalty and with the plain weight that is tuned on each task by validation accuracy."""
    regret, tuned_regret, gain = {}, {}, {}
    for task, own in form.outcomes.items():
        aim = plain.outcomes[task][plain.best([task])].test
        default = own[form.default_for(task)].test
        (base,) = (outcome.test for outcome in none.outcomes[task].values())
        regret[task] = _differences(aim, default)
        tuned_regret[task] = _differences(aim, own[form.best([task])].test)
        gain[task] = _differences(default, base)
    return Judged(form, regret, tuned_regret, gain)


def interval(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1)) * stdev(values) / len(values) ** 0.5


def _differences(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [one - other for one, other in zip(first, second, strict=True)]
