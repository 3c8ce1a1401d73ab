"""The page about the reproduction, made from the results file: what was run, what came out, and what was not run."""

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from statistics import fmean

from gradreg_experiments.paper import cost, frameworks, tables, toy
from gradreg_experiments.paper.data import MNIST_DIGEST
from gradreg_experiments.paper.experiments import EXPERIMENTS, Choices
from gradreg_experiments.paper.protocol import Protocol
from gradreg_experiments.paper.results import Results
from gradreg_experiments.paper.run import BACKENDS
from gradreg_experiments.paper.summary import Summary, summarise

__all__ = ["TITLES", "make_page"]

TITLES = {
    "table1": "Table 1: MNIST, 2,000 training images",
    "figure1-left": "Figure 1, left: MNIST by training set size",
    "variants": "The family, MNIST, 2,000 training images, dropout",
    "beyond": "Beyond the paper: MNIST, 500 training images",
    "cost": "Accuracy over cost: MNIST, 2,000 training images, dropout",
}
SEEDS = range(1, 11)
_REMARKS = {"table1": "batchnorm", "figure1-left": "jacreg"}
"""Experiment -> the text below its tables."""


def make_page(out: Path, results: Results) -> str:
    """The page as Markdown.

    Args:
        out: the folder, whose figures are shown.
        results: the finished runs.
    """
    parts = [_text("head"), _versions(results)]
    todo = []
    shown: set[str] = set()
    for what, title in TITLES.items():
        parts.append(f"## {title}")
        cells = EXPERIMENTS[what](Protocol(), Choices())
        any_run = False
        for backend in BACKENDS:
            rows = summarise(cells, SEEDS, backend, MNIST_DIGEST, results)
            done = sum(len(row.values) for row in rows)
            todo.append((what, backend, f"{done} of {len(rows) * len(SEEDS)}", _fewest(rows)))
            keys = {row.cell.job(seed, backend, MNIST_DIGEST).key for row in rows for seed in row.values}
            any_run = any_run or bool(keys)
            if keys - shown:  # a framework that has nothing but another table's runs gets no section
                parts += [f"### {backend}", *_experiment(what, rows), _picture(out, f"{what}-{backend}", title)]
                parts.append(_cost(out, rows, backend) if what == "cost" else _robustness(rows, backend, results))
            shown |= keys
        if not any_run:
            parts.append("Not run yet.")
        elif what in _REMARKS:
            parts.append(_text(_REMARKS[what]))
    parts += [_toy(out, results), _frameworks(out, results), _text("choices")]
    headings = ("experiment", "framework", "runs done, ten seeds each", "seeds of the least run cell")
    parts.append("## What has been run, and what has not\n\n" + tables.markdown(headings, todo))
    return "\n\n".join(part for part in parts if part) + "\n"


def _text(name: str) -> str:
    return (files(__package__) / "texts" / f"{name}.md").read_text(encoding="utf-8").rstrip("\n")


def _versions(results: Results) -> str:
    found: dict[str, set[str]] = {}
    for each in results:
        for name, version in each.get("versions", {}).items():
            found.setdefault(name, set()).add(str(version))
    text = ", ".join(f"{name} {' and '.join(sorted(versions))}" for name, versions in sorted(found.items()))
    return f"Versions in the results: {text or 'none'}."


def _experiment(what: str, rows: Sequence[Summary]) -> list[str]:
    if what == "cost":
        return []
    parts = [tables.markdown(*tables.table(rows))]
    if what in _VERDICTS:
        parts = [tables.grid(rows), _VERDICTS[what](rows), *parts]
    against = "p: Welch's t-test against the paper's mean, deviation and ten seeds. " if what == "table1" else ""
    return [
        *parts,
        f"Accuracy on the last 10,000 training images. {against}Gain: at equal seeds, with the p of the paired t-test.",
    ]


def _better(rows: Sequence[Summary]) -> str:
    base = rows[0].cell.column
    return "\n".join(f"- {_verdict(row)}" for row in rows if row.cell.column != base and row.values)


def _best(rows: Sequence[Summary]) -> str:
    found = [f"Points over {rows[0].cell.column}, the best first (*: significant at 5 %, each comparison by itself):\n"]
    for size in dict.fromkeys(row.cell.row for row in rows):
        own = [row for row in rows if row.cell.row == size and row.gain is not None and row.p_gain is not None]
        own.sort(key=lambda row: -(row.gain or 0.0))
        gains = ", ".join(f"{row.cell.column} {row.gain:+.2f}{'*' if _sure(row) else ''}" for row in own)
        if gains:
            found.append(f"- {int(size):,} images: {gains}")
    return "\n".join(found) if len(found) > 1 else ""


def _sure(row: Summary) -> bool:
    return row.p_gain is not None and row.p_gain < 0.05


_VERDICTS = {"table1": _better, "figure1-left": _best}


def _cost(out: Path, rows: Sequence[Summary], backend: str) -> str:
    found = cost.points(rows, cost.read(out / f"cost-{backend}.json"))
    return tables.markdown(cost.HEADINGS, cost.rows(found)) if found else ""


def _verdict(row: Summary) -> str:
    if row.gain is None:
        return f"{row.cell.name}: no seed yet for which both it and NoGR were run."
    if row.p_gain is None and row.pairs > 1:
        return f"{row.cell.name}: {row.gain:+.2f} points over NoGR at each of {row.pairs} seeds."
    if row.p_gain is None:
        return f"{row.cell.name}: {row.gain:+.2f} points over NoGR at one seed, which decides nothing."
    better = "beats" if row.gain > 0 else "does not beat"
    sure = "significant at 5 %" if _sure(row) else "not significant at 5 %"
    gain = f"{row.gain:+.2f} points over {row.pairs} seeds"
    return f"{row.cell.name} {better} NoGR: {gain}, {sure} (p {row.p_gain:.2g})."


def _robustness(rows: Sequence[Summary], backend: str, results: Results) -> str:
    lines = []
    names: list[str] = []
    for row in rows:
        runs = [results.get(row.cell.job(seed, backend, MNIST_DIGEST).key) for seed in row.values]
        tests = [run["robustness"] for run in runs if run and "robustness" in run]
        if not tests:
            continue
        kinds = [(kind, size) for kind in ("noise", "fgsm", "pgd") for size in tests[0][kind]]
        names = ["norm", "clean", *(f"{kind} {size}" for kind, size in kinds)]
        norms = [run["jacobian_frobenius"] for run in runs if run and run.get("jacobian_frobenius") is not None]
        norm = f"{fmean(norms):.2f}" if norms else "-"
        means = [fmean(test["clean"] for test in tests)]
        means += [fmean(test[kind][size] for test in tests) for kind, size in kinds]
        lines.append((row.cell.name, str(len(tests)), norm, *(f"{mean:.1f}" for mean in means)))
    if not lines:
        return ""
    return (
        "The mean norm of the logits' Jacobian at 500 test images, and the accuracy in percent of the first 1,000 in "
        "Gaussian noise of that deviation and gradient attacks of that size (pixels from 0 to 1; FGSM: one step, PGD: "
        "ten):\n\n" + tables.markdown(("cell", "seeds", *names), lines)
    )


def _toy(out: Path, results: Results) -> str:
    parts = ["## Figure 1, right: sin(5x) under a growing weight of SpectReg"]
    for backend in BACKENDS:
        jobs = [job for job in toy.jobs(SEEDS, backend) if job.key in results]
        if jobs:
            runs, weights = [results[job.key] for job in jobs], [toy.weight_of(job) for job in jobs]
            parts += [f"### {backend}", tables.markdown(toy.HEADINGS, toy.rows(runs, weights))]
            parts.append(_picture(out, f"figure1-right-{backend}", "Figure 1, right"))
    if len(parts) == 1:
        parts.append("Not run yet.")
    else:
        parts.append(
            "The penalty acts on the 100 training points; the two columns of mean gradients compare them with 1,000 "
            "random points. Weights are as the authors' script counts them; which ones the paper's figure shows is "
            "not known."
        )
    return "\n\n".join(part for part in parts if part)


def _frameworks(out: Path, results: Results) -> str:
    found = frameworks.curves(frameworks.jobs(MNIST_DIGEST), results)
    parts = ["## The same run in every framework"]
    if not found:
        return "\n\n".join([*parts, "Not run yet."])
    parts += [
        "The relative difference of the total loss at the first step, and the first step (from 0) at which it exceeds "
        f"each limit, in the first {frameworks.STEPS} steps:",
        tables.markdown(*frameworks.table(found)),
        _picture(out, "frameworks", "Losses of the frameworks"),
        _text("apart"),
    ]
    return "\n\n".join(part for part in parts if part)


def _picture(out: Path, name: str, title: str) -> str:
    return f"![{title}]({name}.svg)" if (out / f"{name}.svg").exists() else ""


def _fewest(rows: Sequence[Summary]) -> str:
    return str(min(len(row.values) for row in rows))
