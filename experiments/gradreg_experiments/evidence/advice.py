"""``python -m gradreg_experiments.evidence.advice``: when to use a penalty, from the results of all experiments."""

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean
from string import Template
from typing import Any

import click

from gradreg_core.cli.files import write_text
from gradreg_core.cli.terminal import get_console
from gradreg_experiments.evidence import derivatives, distillation, kinks, residual, unlabelled
from gradreg_experiments.evidence.experiment import METHODS, TASKS
from gradreg_experiments.evidence.page import best_rival
from gradreg_experiments.evidence.study import Study, best, factor, gain, points, times
from gradreg_experiments.evidence.summary import Gain, Outcomes, compare, outcomes
from gradreg_experiments.paper.tables import markdown
from gradreg_experiments.results import Results

__all__ = ["make_advice", "recommended"]

_PENALTY, _NONE = "SpectReg", METHODS[0].name
_RIVALS = ("weight decay", "label smoothing", "mixup")
_NOT_RUN = "not run yet"
_HEAD = ("task", "gain", "over the best rival", "plain steps", "recommendation")


def recommended(gains: Sequence[Gain], rivals: Sequence[Gain]) -> str:
    """The recommendation, from the gains over none and over the rival in several similar cases."""
    signs = [own.sign for own in gains]
    if max(own.sign for own in rivals) < 0:
        return "use the rival"
    if min(signs) < 0:
        return "do not use it here" if max(signs) <= 0 else "try it, but check for a loss"
    if min(signs) > 0:
        return "use it" if max(own.sign for own in rivals) > 0 else "use it, or the rival"
    return "try it" if max(signs) > 0 else "do not use it here"


def _row(
    name: str, gains: Sequence[Gain], rivals: Sequence[Gain], cost: float, text: Callable[[Gain], str]
) -> list[str]:
    return [name, *("; ".join(map(text, own)) for own in (gains, rivals)), f"{cost:.2f}"]


def _small(own: Outcomes, measure: str) -> str:
    """A row per data set; its networks' gains in the order of the tasks."""
    rows = []
    for data in dict.fromkeys(task.data for task in TASKS):
        tasks = [task for task in TASKS if task.data == data and task.name in own]
        results = [own[task.name] for task in tasks]
        if tasks:
            names = ", ".join(task.name.split(", ")[1] for task in tasks)
            gains = [compare(methods[_PENALTY], methods[_NONE], measure) for methods in results]
            rivals = [compare(methods[_PENALTY], methods[best_rival(methods)], measure) for methods in results]
            cost = results[0][_PENALTY]["flops"] / results[0][_NONE]["flops"]
            cells = _row(f"{data}, {tasks[0].train} labels: {names}", gains, rivals, cost, points)
            rows.append([*cells, recommended(gains, rivals)])
    return markdown(_HEAD, rows) if rows else f"{_NOT_RUN}."


def _best_rival(study: Study, own: Mapping[str, Mapping[str, Any]], rivals: Sequence[str]) -> str:
    """The method with the best mean on validation samples at its chosen setting."""
    sign = 1 if study.larger_is_better else -1
    return max(rivals, key=lambda name: sign * fmean(best(study, own[name])["validation"]))


def _study(
    study: Study, results: Results, name: str, first: str, none: str, rivals: Sequence[str], measure: str
) -> str:
    """A row per condition: a method's gain over none and over the rival that is best on validation samples."""
    compared = gain if study.larger_is_better else factor
    text = points if study.larger_is_better else times
    rows = []
    cells = study.cells(results).items()
    known = {condition: own for condition, own in cells if {first, none, *rivals} <= set(own)}
    for (task, count), own in known.items():
        rival = _best_rival(study, own, rivals)
        over = [compared(study, own[first], own[other], measure) for other in (none, rival)]
        row = _row(f"{task}, {count}", over[:1], over[1:], own[first]["flops"] / own[none]["flops"], text)
        # A smaller error is better.
        signed = over if study.larger_is_better else [Gain(-one.mean, one.half) for one in over]
        rows.append([*row, recommended(signed[:1], signed[1:])])
    return markdown((name, *_HEAD[1:]), rows) if rows else f"{_NOT_RUN}."


def make_advice(docs: Path) -> str:
    """The page as Markdown.

    Args:
        docs: the folder of the documentation; its folder ``evidence`` has the results.
    """
    folder = docs / "evidence"
    own = outcomes(Results(folder))
    studies = (derivatives.STUDY, distillation.STUDY, kinks.STUDY, residual.STUDY, unlabelled.STUDY)
    by_name = {study.name: (study, Results(folder / study.name)) for study in studies}

    def of(study: str, name: str, first: str, none: str, rivals: Sequence[str], measure: str) -> str:
        return _study(*by_name[study], name, first, none, rivals, measure)

    texts = {
        "small": _small(own, "test"),
        "noise": _small(own, "noise"),
        "derivatives": of("derivatives", "system, points", "SobolevReg", "values alone", ["weight decay"], "error"),
        "distillation": of(
            "distillation", "images", "soft labels, Jacobian", "labels alone", ["soft labels"], "accuracy"
        ),
        "unlabelled": of("unlabelled", "labels", "SpectReg, all", "labels alone", ["SpectReg, labelled"], "accuracy"),
        "kinks": of("kinks", "network, images", "L1 norm", _NONE, ["FGSM training"], "robust"),
        "accuracy": of("residual", "network, images", _PENALTY, _NONE, _RIVALS, "accuracy"),
        "noisy": of("residual", "network, images", _PENALTY, _NONE, _RIVALS, "noisy"),
    }
    template = (files(__package__) / "when-to-use.md").read_text(encoding="utf-8")
    return Template(template).substitute(texts)


@click.command()
@click.option("--docs", type=click.Path(path_type=Path), default=Path("docs"), help="The documentation's folder.")
def main(docs: Path) -> None:
    """Write when-to-use.md from the results of all experiments on evidence."""
    write_text(docs / "when-to-use.md", make_advice(docs))
    get_console().print(f"Wrote {docs / 'when-to-use.md'}.")


if __name__ == "__main__":
    main()
