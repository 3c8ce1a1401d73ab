"""``python -m gradreg_experiments.evidence.advice``: when to use a penalty, from the results of all experiments."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from gradreg_core.cli.files import write_text
from gradreg_core.cli.terminal import get_console
from gradreg_experiments.evidence import derivatives, distillation, kinks, unlabelled
from gradreg_experiments.evidence.experiment import METHODS, TASKS
from gradreg_experiments.evidence.page import best_rival
from gradreg_experiments.evidence.study import Study, factor, gain, points, times
from gradreg_experiments.evidence.summary import Gain, Outcomes, compare, outcomes
from gradreg_experiments.paper.tables import markdown
from gradreg_experiments.results import Results

__all__ = ["make_advice", "recommended"]

_PENALTY, _NONE = "SpectReg", METHODS[0].name
_NOT_RUN = "not run yet"
_HEAD = ("task", "gain", "over the best rival", "plain steps", "recommendation")


def recommended(gains: Sequence[Gain], rivals: Sequence[Gain]) -> str:
    """What to do, from the gains over none and over the rival in several cases of a kind."""
    signs = [own.sign for own in gains]
    if max(own.sign for own in rivals) < 0:
        return "use the rival"
    if min(signs) < 0:
        return "do not use it here" if max(signs) <= 0 else "try it, and look at a loss"
    if min(signs) > 0:
        return "use it" if max(own.sign for own in rivals) > 0 else "use it, or the rival"
    return "try it" if max(signs) > 0 else "do not use it here"


def _row(
    name: str, gains: Sequence[Gain], rivals: Sequence[Gain], cost: float, text: Callable[[Gain], str]
) -> list[str]:
    return [name, *("; ".join(map(text, own)) for own in (gains, rivals)), f"{cost:.2f}"]


def _small(own: Outcomes, measure: str) -> str:
    """A row for each set of data; its networks' gains in the order of the tasks."""
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


def _study(study: Study, results: Results, name: str, first: str, none: str, rival: str, measure: str) -> str:
    """A row for each condition: a method over none and over its rival."""
    compared = gain if study.larger_is_better else factor
    text = points if study.larger_is_better else times
    rows = []
    known = {condition: own for condition, own in study.cells(results).items() if {first, none, rival} <= set(own)}
    for (task, count), own in known.items():
        over = [compared(study, own[first], own[other], measure) for other in (none, rival)]
        cells = _row(f"{task}, {count}", over[:1], over[1:], own[first]["flops"] / own[none]["flops"], text)
        # An error is better where it is smaller.
        signed = over if study.larger_is_better else [Gain(-one.mean, one.half) for one in over]
        rows.append([*cells, recommended(signed[:1], signed[1:])])
    return markdown((name, *_HEAD[1:]), rows) if rows else f"{_NOT_RUN}."


def make_advice(docs: Path) -> str:
    """The page as Markdown.

    Args:
        docs: the folder of the documentation, whose folder ``evidence`` has the results.
    """
    folder = docs / "evidence"
    own = outcomes(Results(folder))
    studies = (derivatives.STUDY, distillation.STUDY, kinks.STUDY, unlabelled.STUDY)
    by_name = {study.name: (study, Results(folder / study.name)) for study in studies}
    texts = {
        "small": _small(own, "test"),
        "noise": _small(own, "noise"),
        "derivatives": _study(
            *by_name["derivatives"], "system, points", "SobolevReg", "values alone", "weight decay", "error"
        ),
        "distillation": _study(
            *by_name["distillation"],
            *("images", "soft labels, Jacobian", "labels alone", "soft labels", "accuracy"),
        ),
        "unlabelled": _study(
            *by_name["unlabelled"], "labels", "SpectReg, all", "labels alone", "SpectReg, labelled", "accuracy"
        ),
        "kinks": _study(*by_name["kinks"], "network, images", "L1 norm", "none", "FGSM training", "robust"),
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
