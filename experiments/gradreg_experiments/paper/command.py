"""The command ``gradreg reproduce``."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from gradreg_core.cli.files import write_text
from gradreg_core.errors import InputError, UnsupportedError
from gradreg_experiments.demo.idx import Mnist
from gradreg_experiments.paper import cost, frameworks, toy
from gradreg_experiments.paper.data import HELD_OUT, digest, load
from gradreg_experiments.paper.experiments import EXPERIMENTS, Choices, jobs, select
from gradreg_experiments.paper.page import TITLES, make_page
from gradreg_experiments.paper.protocol import NETWORKS, PENALTY_PASSES, STANDARDISE, Protocol
from gradreg_experiments.paper.results import Results
from gradreg_experiments.paper.run import BACKENDS, check_backends, run_job
from gradreg_experiments.paper.summary import summarise
from gradreg_experiments.paper.sweep import sweep

__all__ = ["main", "reproduce"]

_WITHOUT_DATA = ("figure1-right", "page")


@click.command()
@click.argument("what", type=click.Choice([*EXPERIMENTS, "figure1-right", "frameworks", "page"]))
@click.option("--backend", default="torch", show_default=True, help="torch, jax or tensorflow; its runs are its own.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="A folder with MNIST's four IDX files.")
@click.option("--unverified-data", is_flag=True, help="Take IDX files that are not the original MNIST's.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Seeds 1 to this.")
@click.option("--cells", multiple=True, help="Only cells whose ROW/COLUMN matches, such as 'dropout/*'; repeatable.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, one thread each.")
@click.option(
    "--together",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Seeds that train as one program, with --backend jax. On a GPU take all; on a CPU it is slower.",
)
@click.option("--scheduler", help="Address of a Dask scheduler, whose workers do the runs.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("out/reproduction"),
    show_default=True,
    help="Folder of results.jsonl, tables and figures. Runs that are in it are not done again.",
)
@click.option("--report-only", is_flag=True, help="Train nothing; tables and figures from the runs there are.")
@click.option(
    "--test",
    "measure",
    type=click.Choice(["held-out", "official"]),
    default="held-out",
    show_default=True,
    help="The accuracy shown: on the last 10,000 training images, as in the authors' code, or on MNIST's test set.",
)
@click.option("--network", type=click.Choice(NETWORKS[:2]), default=Protocol.network, show_default=True)
@click.option("--standardise", type=click.Choice(STANDARDISE), default=Protocol.standardise, show_default=True)
@click.option("--penalty-pass", type=click.Choice(PENALTY_PASSES), default=Protocol.penalty_pass, show_default=True)
@click.option("--draw", type=click.Choice(["per_batch", "per_sample"]), default=Choices.draw, show_default=True)
@click.option("--jacreg", type=click.Choice(["code", "tuned"]), default=Choices.jacreg, show_default=True)
@click.option("--entropy", type=click.Choice(["sum", "mean"]), default=Choices.entropy, show_default=True)
@click.option("--steps", type=click.IntRange(1), help="Fewer steps than the authors', to try things out.")
def reproduce(what: str, data_dir: Path | None, unverified_data: bool, out: Path, **options: Any) -> None:
    """Train the paper's tables and figures again, with the authors' protocol.

    WHAT is table1, figure1-left, figure1-right, variants, beyond (what the paper did not compare with), cost (the
    accuracy that cheaper settings keep, and what their steps cost), frameworks (the same runs in all three) or page
    (README.md in OUT, from all results there). Finished runs are kept in
    OUT/results.jsonl, and only what is missing is run; a run whose settings differ in anything is another run.
    """
    console = Console()
    files = _files(what, data_dir, unverified_data)
    results = Results(out / "results.jsonl")
    if what == "page":
        write_text(out / "README.md", make_page(out, results))
        _wrote(console, [out / "README.md"])
    elif what == "figure1-right":
        _figure1_right(console, results, out, options)
    elif what == "frameworks":
        assert files is not None
        _frameworks(console, files, results, out, options)
    else:
        assert files is not None
        _experiment(console, what, files, results, out, options)


main = reproduce


def _files(what: str, data_dir: Path | None, unverified: bool) -> Mnist | None:
    if what in _WITHOUT_DATA:
        return None
    if data_dir is None:
        raise InputError(
            f"reproduce {what}: expected --data-dir, a folder with MNIST's four files (train-images-idx3-ubyte, "
            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, gzipped or not). Nothing is "
            "downloaded: get them from a dataset hub or a mirror of the original site; their checksums are verified."
        )
    return load(data_dir, unverified)


def _sweep(console: Console, wanted: Sequence[Any], files: Any, results: Results, options: Any, function: Any) -> None:
    if options["report_only"]:
        return
    check_backends(job.backend for job in wanted)
    if options["together"] > 1 and (function is not run_job or options["backend"] != "jax"):
        raise UnsupportedError(
            "reproduce: --together is for the experiments on MNIST with --backend jax, which trains several seeds as "
            "one program; leave it out, or use --workers."
        )
    count = sweep(
        wanted,
        files,
        results,
        workers=options["workers"],
        scheduler=options["scheduler"],
        together=options["together"],
        console=console,
        function=function,
    )
    console.print(f"{count} of {len(wanted)} runs done now, the others were there.", highlight=False)


def _experiment(console: Console, what: str, files: Mnist, results: Results, out: Path, options: Any) -> None:
    from gradreg_experiments.paper import figures, tables

    base = Protocol(
        network=options["network"], standardise=options["standardise"], penalty_pass=options["penalty_pass"]
    )
    if options["steps"]:
        base = replace(base, steps=options["steps"])
    every = EXPERIMENTS[what](base, Choices(options["draw"], options["jacreg"], options["entropy"]))
    data, backend, seeds = digest(files), options["backend"], range(1, options["seeds"] + 1)
    cells = select(every, options["cells"])
    _sweep(console, jobs(cells, seeds, backend, data), files, results, options, run_job)
    measure = "test" if options["measure"] == "held-out" else "official"
    rows = summarise(every, seeds, backend, data, results, measure)
    stem, title = _named(out, what, options)
    tables.print_summaries(console, title, rows)
    images = f"the last {HELD_OUT:,} training images" if measure == "test" else "MNIST's test images"
    note = (
        f"Accuracy on {images}. p: Welch's t-test against the paper's mean, sd and ten seeds. Gain: over the row's "
        "first cell at equal seeds, with the p of the paired t-test."
    )
    console.print(note, style="dim", highlight=False)
    text = f"# {title}\n\n{tables.grid(rows)}\n\n{tables.markdown(*tables.table(rows))}\n\n{note}\n"
    write_text(stem.with_suffix(".md"), text)
    if what == "cost":
        _cost(console, rows, stem, title, options)
        return
    draw = figures.draw_sizes if what == "figure1-left" else figures.draw_table
    paths = draw(stem, title, rows) if any(row.values for row in rows) else []
    _wrote(console, [stem.with_suffix(".md"), *paths])


def _named(out: Path, what: str, options: Any) -> tuple[Path, str]:
    """The files' common name and the title, with the settings that are not the default ones."""
    usual = {**asdict(Protocol()), **asdict(Choices()), "steps": None, "measure": "held-out"}
    names = ("network", "standardise", "penalty_pass", "draw", "jacreg", "entropy", "steps", "measure")
    other = {name: options[name] for name in names if options[name] != usual[name]}
    stem = "-".join([what, options["backend"], *(f"{name}-{value}".replace("_", "-") for name, value in other.items())])
    settings = ", ".join(f"{name}={value}" for name, value in other.items())
    return out / stem, f"{TITLES[what]}, {options['backend']}" + (f" ({settings})" if settings else "")


def _cost(console: Console, summaries: Sequence[Any], stem: Path, title: str, options: Any) -> None:
    from gradreg_experiments.paper import figures, tables

    if options["network"] != Protocol().network:
        raise InputError(f"reproduce cost: the cost of a step is that of {Protocol().network}; leave --network out.")
    numbers = stem.with_suffix(".json")
    if not numbers.exists() and not options["report_only"]:
        with console.status("the cost of a step of each setting"):
            cost.measure(numbers, [each.cell for each in summaries], options["backend"])
    found = cost.points(summaries, cost.read(numbers))
    table = tables.markdown(cost.HEADINGS, cost.rows(found))
    write_text(stem.with_suffix(".md"), f"# {title}\n\n{table}\n")
    console.print(table, highlight=False, soft_wrap=True)
    _wrote(console, [stem.with_suffix(".md"), *(figures.draw_cost(stem, title, found) if found else [])])


def _figure1_right(console: Console, results: Results, out: Path, options: Any) -> None:
    from gradreg_experiments.paper import figures, tables

    steps = options["steps"] or Protocol.steps
    wanted = toy.jobs(range(1, options["seeds"] + 1), options["backend"], steps)
    _sweep(console, wanted, None, results, options, toy.run_toy)
    done = [job for job in wanted if job.key in results]
    if not done:
        return
    runs = [results[job.key] for job in done]
    weights = [toy.weight_of(job) for job in done]
    rows = toy.rows(runs, weights)
    stem = out / f"figure1-right-{options['backend']}"
    title = "Figure 1, right: sin(5x) under a growing weight of SpectReg"
    write_text(stem.with_suffix(".md"), f"# {title}, {options['backend']}\n\n{tables.markdown(toy.HEADINGS, rows)}\n")
    _wrote(console, [stem.with_suffix(".md"), *figures.draw_toy(stem, runs, weights)])


def _frameworks(console: Console, files: Mnist, results: Results, out: Path, options: Any) -> None:
    from gradreg_experiments.paper import figures, tables

    wanted = frameworks.jobs(digest(files), BACKENDS, options["steps"] or frameworks.STEPS)
    _sweep(console, wanted, files, results, options, frameworks.run_curve)
    found = frameworks.curves(wanted, results)
    if not found:
        return
    headings, rows = frameworks.table(found)
    stem = out / "frameworks"
    title = "The same run in every framework"
    write_text(stem.with_suffix(".md"), f"# {title}\n\n{tables.markdown(headings, rows)}\n")
    _wrote(console, [stem.with_suffix(".md"), *figures.draw_curves(stem, found)])


def _wrote(console: Console, paths: Sequence[Path]) -> None:
    console.print(f"Wrote {', '.join(map(str, paths))}.", highlight=False, soft_wrap=True)
