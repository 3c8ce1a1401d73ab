"""The page: ``page.md`` has its text, the results give its tables."""

from collections.abc import Sequence
from importlib.resources import files
from statistics import fmean
from string import Template

from gradreg_experiments.paper.tables import markdown
from gradreg_experiments.results import Results
from gradreg_experiments.weights.rules import RULES, Rule, Setting, find_rule
from gradreg_experiments.weights.summary import Form, Judged, forms, interval, judge
from gradreg_experiments.weights.tasks import CHECKS, TASKS

__all__ = ["make_page"]

_PENALTIES = {"spectreg": "SpectReg", "datagrad": "DataGrad"}
_FEWEST = 3
"""The number of tasks needed for an interval over them."""
_NUMBERS = (
    *("target_regret", "target_worst", "target_gain", "tuned_gain", "target_without"),
    *("plain_regret", "plain_worst", "plain_default", "plain_without", "plain_worst_without"),
    *("target_short", "plain_short", "target_list", "plain_list", "share_tuned"),
)
"""The names of the numbers in the text."""
_HARMED = "rings"
"""The task that any penalty harms."""
_LARGEST = 0.1
"""The largest plain weight shown for the checks; beyond it the accuracy falls further."""


def make_page(results: Results) -> str:
    """The page as Markdown; a table with too few results says so."""
    names = [task.name for task in TASKS]
    tables = dict.fromkeys(("forms", "without", "regrets", "tasks"), "Not run yet.")
    everywhere = _judged(forms(results, names))
    if everywhere:
        tables["forms"] = _forms(everywhere)
        others = _judged(forms(results, [name for name in names if name != _HARMED]))
        tables["without"] = _forms(others)
        tables["regrets"] = _regrets(everywhere)
        tables["tasks"] = _tasks(everywhere)
        tables |= _numbers(everywhere, others)
    tables["checks"] = _checks(results)
    tables = dict.fromkeys(_NUMBERS, "-") | tables
    text = (files(__package__) / "page.md").read_text(encoding="utf-8")
    settings = "; ".join(f"{_title(rule.penalty, rule.name)}: {_settings(rule)}" for rule in RULES[1:])
    return Template(text).substitute(tables, protocol=_protocol(), settings=settings)


def _numbers(judged: Sequence[Judged], others: Sequence[Judged]) -> dict[str, str]:
    """The numbers in the text, by :data:`_NUMBERS`; `others` exclude the task that any penalty harms."""
    held, plain, share = (_named(judged, name) for name in ("target, inputs", "plain", "gradient share"))
    held_without, plain_without = (_named(others, name) for name in ("target, inputs", "plain"))
    tuned = _mean(plain.regret) + _mean(plain.gain)
    texts = (
        *(_with_interval(held.means), f"{max(held.means):.2f}", f"{_mean(held.gain):.2f}", f"{tuned:.2f}"),
        *(_with_interval(held_without.means), _with_interval(plain.means), f"{max(plain.means):.2f}"),
        _setting("plain", plain_without.form.best(plain_without.form.outcomes)),
        *(_with_interval(plain_without.means), f"{max(plain_without.means):.2f}"),
        *(f"{_mean(held.short_regret):+.2f}", f"{_mean(plain.short_regret):+.2f}"),
        *(_short_list(held), _short_list(plain), f"{_mean(share.tuned_regret):+.2f}"),
    )
    return dict(zip(_NUMBERS, texts, strict=True))


def _named(judged: Sequence[Judged], rule: str) -> Judged:
    """The form of SpectReg with this rule."""
    return next(own for own in judged if (own.form.penalty, own.form.rule) == ("spectreg", rule))


def _short_list(judgement: Judged) -> str:
    settings = judgement.form.short_list(judgement.form.outcomes, judgement.none)
    return " and ".join(_setting(judgement.form.rule, setting) for setting in settings)


def _judged(every: Sequence[Form]) -> list[Judged]:
    """The judgements of all forms but no penalty; empty if there are too few results."""
    by_rule = {(form.penalty, form.rule): form for form in every}
    none, plain = (by_rule.get(("spectreg", name)) for name in ("none", "plain"))
    if none is None or plain is None or len(none.outcomes) < _FEWEST:
        return []
    return [judge(form, none, plain) for form in every if form is not none]


def _settings(rule: Rule) -> str:
    columns = [sorted(set(column)) for column in zip(*rule.settings, strict=True)]
    return ", ".join(
        f"{name} {' '.join(map(_number, values))}" for name, values in zip(_names(rule.name), columns, strict=False)
    )


def _checks(results: Results) -> str:
    """The accuracy and n of every setting on the checks."""
    by_task = {task.name: forms(results, [task.name]) for task in CHECKS}
    cells: dict[str, dict[str, str]] = {}
    for task, every in by_task.items():
        for form in every:
            for setting, outcome in form.outcomes[task].items():
                if form.rule != "plain" or setting[0] <= _LARGEST:
                    words = form.rule if form.rule == "none" else f"{form.rule}, {_setting(form.rule, setting)}"
                    cells.setdefault(words, {})[task] = f"{fmean(outcome.test):.1f} ({_norm(outcome.norm)})"
    rows = [[words, *(own.get(task, "-") for task in by_task)] for words, own in cells.items()]
    return markdown(("accuracy, % (n)", *by_task), rows) if rows else "Not run yet."


def _title(penalty: str, rule: str) -> str:
    return rule if penalty == "spectreg" else f"{_PENALTIES[penalty]}, {rule}"


def _number(value: float) -> str:
    """A setting, in at most one digit: 0.003, 1e-05."""
    return f"{value:g}"


def _setting(rule: str, setting: Setting) -> str:
    return ", ".join(f"{name} = {_number(value)}" for name, value in zip(_names(rule), setting, strict=False))


def _names(rule: str) -> tuple[str, ...]:
    return ("t",) if rule.startswith("target") else ("w", "t")


def _with_interval(values: Sequence[float]) -> str:
    return f"{fmean(values):+.2f} ± {interval(values):.2f}"


def _mean(by_task: dict[str, list[float]]) -> float:
    return fmean(fmean(values) for values in by_task.values())


def _forms(judged: Sequence[Judged]) -> str:
    rows = []
    for judgement in judged:
        form = judgement.form
        gains = [fmean(values) for values in judgement.gain.values()]
        rows.append(
            [
                _title(form.penalty, form.rule),
                f"`{find_rule(form.rule, form.penalty).formula}`",
                _setting(form.rule, form.best(form.outcomes)),
                _with_interval(judgement.means),
                f"{max(judgement.means):+.2f}",
                f"{_mean(judgement.tuned_regret):+.2f}",
                f"{_mean(judgement.short_regret):+.2f}",
                _with_interval(gains),
                f"{min(gains):+.2f}",
            ]
        )
    headings = ("form", "added to the loss", "default", "regret", "worst", "tuned", "short list", "gain", "least")
    return markdown(headings, rows)


def _regrets(judged: Sequence[Judged]) -> str:
    """The regret of each form's default on each task, with its interval over the seeds."""
    names = list(judged[0].regret)
    rows = []
    for judgement in judged:
        title = _title(judgement.form.penalty, judgement.form.rule)
        rows.append([title, *(_with_interval(judgement.regret[name]) for name in names)])
    return markdown(("regret", *names), rows)


def _tasks(judged: Sequence[Judged]) -> str:
    none = judged[0].none
    plains = [judgement.form for judgement in judged if judgement.form.rule == "plain"]
    rows = []
    for task, outcomes in none.outcomes.items():
        (base,) = outcomes.values()
        row = [task, f"{fmean(base.test):.2f}", _norm(base.norm)]
        for form in plains:
            best = form.best([task])
            own = form.outcomes[task][best]
            gains = [after - before for after, before in zip(own.test, base.test, strict=True)]
            row += [f"{_number(best[0])}", f"{_with_interval(gains)}"]
            row += [_norm(own.norm)] if form.penalty == "spectreg" else []
        rows.append(row)
    headings = ["task", "none, %", "n"]
    for form in plains:
        headings += [f"{_PENALTIES[form.penalty]}, best w", "gain", *(["n"] if form.penalty == "spectreg" else [])]
    return markdown(headings, rows)


def _norm(norm: float | None) -> str:
    return "-" if norm is None else f"{norm:.2g}"


def _protocol() -> str:
    rows = []
    for task in (*TASKS, *CHECKS):
        layers = " ".join(
            {"dense": "{1}", "conv": "conv {1} ({2}x{2})", "pool": "pool"}[layer[0]].format(*layer)
            for layer in task.layers
            if layer[0] in ("dense", "conv", "pool")
        )
        numbers = (f"{task.scale:.2g}", str(task.train), str(task.steps), str(task.seeds))
        rows.append([task.name, layers, task.activation.upper().replace("RELU", "ReLU"), *numbers])
    headings = ("task", "layers", "activation", "inputs' deviation", "training samples", "steps", "seeds")
    return markdown(headings, rows)
