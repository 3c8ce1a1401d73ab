"""The page: ``page.md`` has its text, the results give its tables."""

from collections.abc import Mapping
from importlib.resources import files
from statistics import fmean
from string import Template
from typing import Any

from gradreg_experiments.evidence.experiment import CHECKPOINTS, METHODS, TASKS
from gradreg_experiments.evidence.summary import Gain, Outcomes, chosen, compare, outcomes, verdict
from gradreg_experiments.paper.tables import markdown
from gradreg_experiments.results import Results

__all__ = ["best_rival", "make_page"]

_NONE = METHODS[0].name
_RIVALS = ("weight decay", "label smoothing", "dropout", "mixup")
_PENALTIES = ("SpectReg", "DataGrad", "layer-wise")
_FITTED = 99
_NOT_RUN = "Not run yet."


def make_page(results: Results) -> str:
    """The page as Markdown; a table without results says so."""
    own = outcomes(results)
    makers = {"advice": _advice, "gains": _gains, "noise": _noise, "layers": _layers, "length": _length, "cost": _cost}
    tables = {name: make(own) if own else _NOT_RUN for name, make in makers.items()}
    missing = [task.name for task in TASKS if task.name not in own]
    texts = {
        "missing": f"Not run, or not with every method: {'; '.join(missing)}." if missing else "All tasks are run.",
        "count": _count(own) if own else _NOT_RUN,
        "start": _start(own) if own else _NOT_RUN,
        "budget": str(len(METHODS[1].settings)),
        "settings": markdown(("method", "setting", "values"), [
            [method.name, method.meaning, ", ".join(f"{value:g}" for value in method.settings)]
            for method in METHODS[1:]
        ]),
        "tasks": markdown(("task", "training samples", "steps", "seeds"), [
            [task.name, str(task.train), str(task.steps), str(task.seeds)] for task in TASKS
        ]),
        "minutes": f"{sum(result['cpu_seconds'] for result in results) / 60:.0f}",
        "versions": "; ".join(sorted({
            ", ".join(f"{name} {number}" for name, number in result["versions"].items()) for result in results
        })) or "-",
    }  # fmt: skip
    text = (files(__package__) / "page.md").read_text(encoding="utf-8")
    return Template(text).substitute(tables, **texts)


def _points(gain: Gain) -> str:
    text = f"{gain.mean:+.2f} ± {gain.half:.2f}"
    return f"**{text}**" if gain.sign else text


def _accuracy(own: Outcomes, task: str, name: str = "test", steps: int = CHECKPOINTS[-1]) -> str:
    return f"{fmean(chosen(own[task][_NONE], steps)[name][CHECKPOINTS.index(steps)]):.1f}"


def best_rival(methods: Mapping[str, Mapping[str, Any]]) -> str:
    """The rival with the best accuracy on validation samples, from a task's results by method."""
    return max(_RIVALS, key=lambda name: fmean(chosen(methods[name])["validation"][-1]))


def _advice(own: Outcomes) -> str:
    rows = []
    for task, methods in own.items():
        name = max(_PENALTIES, key=lambda name: fmean(chosen(methods[name])["validation"][-1]))
        rival = best_rival(methods)
        gain, over = compare(methods[name], methods[_NONE]), compare(methods[name], methods[rival])
        rows.append([task, name, _points(gain), rival, _points(over), _steps(own, task, name), verdict(gain, over)])
    headings = ("task", "penalty", "gain over none", "best rival", "gain over it", "plain steps", "advice")
    return markdown(headings, rows)


def _count(own: Outcomes) -> str:
    """The number of tasks in which each penalty gains and loses, beyond its interval."""
    texts = []
    for name in _PENALTIES:
        signs = [compare(methods[name], methods[_NONE]).sign for methods in own.values()]
        texts.append(f"{name} gains in {signs.count(1)} of {len(signs)} tasks and loses in {signs.count(-1)}")
    return "; ".join(texts) + "."


def _gains(own: Outcomes, name: str = "test") -> str:
    rows = []
    for task, methods in own.items():
        row = [task, _accuracy(own, task, name)]
        for method in METHODS[1:]:
            setting = f" ({chosen(methods[method.name])['setting']:g})" if name == "test" else ""
            row.append(_points(compare(methods[method.name], methods[_NONE], name)) + setting)
        rows.append(row)
    return markdown(("task", "none, %", *(method.name for method in METHODS[1:])), rows)


def _noise(own: Outcomes) -> str:
    return _gains(own, "noise")


def _layers(own: Outcomes) -> str:
    rows = []
    for task, methods in own.items():
        rows.append([task, *(_points(compare(methods["layer-wise"], methods[name])) for name in _PENALTIES[:2])])
    return markdown(("task", "layer-wise minus SpectReg", "layer-wise minus DataGrad"), rows)


def _length(own: Outcomes) -> str:
    rows = []
    for task, methods in own.items():
        for name in ("SpectReg", "SpectReg once fitted"):
            gains = [_points(compare(methods[name], methods[_NONE], "test", steps)) for steps in CHECKPOINTS]
            rows.append([task, f"gain of {name}", *gains])
        fitted = [_accuracy(own, task, "train", steps) for steps in CHECKPOINTS]
        rows.append([task, "training samples fitted, %", *fitted])
    return markdown(("task", "", *(f"{steps} steps" for steps in CHECKPOINTS)), rows)


def _start(own: Outcomes) -> str:
    """How often SpectReg gains and loses before and after the plain network has fitted its training samples."""
    before: list[int] = []
    after: list[int] = []
    for methods in own.values():
        for place, steps in enumerate(CHECKPOINTS):
            fitted = fmean(chosen(methods[_NONE], steps)["train"][place]) >= _FITTED
            (after if fitted else before).append(compare(methods["SpectReg"], methods[_NONE], "test", steps).sign)
    texts = [
        f"if {words} {_FITTED} % are fitted, it gains in {signs.count(1)} of {len(signs)} cells "
        f"and loses in {signs.count(-1)}"
        for words, signs in (("less than", before), ("at least", after))
    ]
    return f"SpectReg, beyond the interval: {'; '.join(texts)}."


def _steps(own: Outcomes, task: str, name: str) -> str:
    return f"{own[task][name]['flops'] / own[task][_NONE]['flops']:.2f}"


def _cost(own: Outcomes) -> str:
    names = [method.name for method in METHODS[1:]]
    return markdown(("task", *names), [[task, *(_steps(own, task, name) for name in names)] for task in own])
