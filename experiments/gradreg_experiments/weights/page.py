"""The page: its text is in ``page.md``, its tables are made from the results."""

from collections.abc import Sequence
from importlib.resources import files
from statistics import fmean
from string import Template

from gradreg_experiments.paper.tables import markdown
from gradreg_experiments.results import Results
from gradreg_experiments.weights.rules import Setting, find_rule
from gradreg_experiments.weights.summary import Form, Judged, forms, interval, judge
from gradreg_experiments.weights.tasks import TASKS

__all__ = ["make_page"]

_PENALTIES = {"spectreg": "SpectReg", "datagrad": "DataGrad"}
_FEWEST = 3
"""Tasks, for an interval over them."""


def make_page(results: Results) -> str:
    """The page as Markdown; tables say so where there are too few results."""
    every = forms(results)
    by_name = {(form.penalty, form.rule): form for form in every}
    none, plain = (by_name.get(("spectreg", name)) for name in ("none", "plain"))
    if none is None or plain is None or len(none.outcomes) < _FEWEST:
        tables = dict.fromkeys(("forms", "gains", "tasks"), "Not run yet.")
    else:
        judged = [judge(form, none, plain) for form in every if form is not none]
        tables = {
            "forms": _forms(judged, none),
            "tasks": _tasks(none, [judgement.form for judgement in judged if judgement.form.rule == "plain"]),
            "gains": _gains(judged),
        }
    text = (files(__package__) / "page.md").read_text(encoding="utf-8")
    return Template(text).substitute(tables, protocol=_protocol())


def _title(form: Form) -> str:
    return form.rule if form.penalty == "spectreg" else f"{_PENALTIES[form.penalty]}, {form.rule}"


def _number(value: float) -> str:
    """A setting, in at most one digit: 0.003, 1e-05."""
    return f"{value:g}"


def _setting(setting: Setting) -> str:
    return ", ".join(f"{name} = {_number(value)}" for name, value in zip(("w", "t"), setting, strict=False))


def _with_interval(values: Sequence[float]) -> str:
    return f"{fmean(values):+.2f} ± {interval(values):.2f}"


def _mean(by_task: dict[str, list[float]]) -> float:
    return fmean(fmean(values) for values in by_task.values())


def _forms(judged: Sequence[Judged], none: Form) -> str:
    rows = []
    for judgement in judged:
        form = judgement.form
        gains = [fmean(values) for values in judgement.gain.values()]
        rows.append(
            [
                _title(form),
                f"`{find_rule(form.rule, form.penalty).formula}`",
                _setting(form.best(none.outcomes)),
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


def _gains(judged: Sequence[Judged]) -> str:
    """The gain of each form's default on each task, with its interval over the seeds."""
    names = list(judged[0].gain)
    rows = [
        [_title(judgement.form), *(_with_interval(judgement.regret[name]) for name in names)] for judgement in judged
    ]
    return markdown(("regret", *names), rows)


def _tasks(none: Form, plains: Sequence[Form]) -> str:
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
    for task in TASKS:
        layers = " ".join(
            {"dense": "{1}", "conv": "conv {1} ({2}x{2})", "pool": "pool"}[layer[0]].format(*layer)
            for layer in task.layers
            if layer[0] in ("dense", "conv", "pool")
        )
        numbers = (f"{task.scale:.2g}", str(task.train), str(task.steps), str(task.seeds))
        rows.append([task.name, layers, task.activation.upper().replace("RELU", "ReLU"), *numbers])
    headings = ("task", "layers", "activation", "inputs' deviation", "training samples", "steps", "seeds")
    return markdown(headings, rows)
