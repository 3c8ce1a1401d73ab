"""The command ``gradreg reproduce``."""

from pathlib import Path
from typing import Any

import click

from gradreg_core.cli.files import write_text
from gradreg_core.cli.terminal import get_console, out_option
from gradreg_core.errors import InputError
from gradreg_experiments.data.idx import Mnist
from gradreg_experiments.data.mnist import MNIST_DIGEST, digest, load
from gradreg_experiments.folder import held
from gradreg_experiments.paper.experiment import Experiment, Report, Settings
from gradreg_experiments.paper.experiments import experiments, find_experiment
from gradreg_experiments.paper.page import make_pages
from gradreg_experiments.paper.protocol import NETWORKS, PENALTY_PASSES, STANDARDISE, Choices, Protocol
from gradreg_experiments.results import Results
from gradreg_experiments.runner import run_missing

__all__ = ["main", "reproduce"]

_HELP = f"""Reproduce the paper's tables and figures with the authors' protocol.

\b
EXPERIMENT is one of:
{chr(10).join(f"  {record.name:14} {record.title}" for record in experiments().values())}
  {"page":14} a page per experiment in OUT, from all its results

Finished runs are kept in OUT/runs, and in OUT/results.jsonl at the end; only missing runs are done. A change of
any setting makes a different run.
"""


@click.command(
    help=_HELP, epilog="\b\nExample:\n  gradreg reproduce table1 --data-dir mnist --workers 2 --out out/reproduction"
)
@click.argument("experiment")
@click.option("--backend", default="torch", show_default=True, help="Runs are kept per backend.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="A folder with MNIST's four IDX files.")
@click.option("--unverified-data", is_flag=True, help="Accept IDX files that are not the original MNIST's.")
@click.option("--seeds", type=click.IntRange(1, 1000), default=10, show_default=True, help="Seeds 1 to this.")
@click.option("--cells", multiple=True, help="Only cells whose ROW/COLUMN matches, such as 'dropout/*'; repeatable.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes, one thread each.")
@click.option(
    "--together",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Seeds trained as one program, with --backend jax. Use all on a GPU; slower on a CPU.",
)
@click.option("--scheduler", help="Address of a Dask scheduler, whose workers run the jobs.")
@out_option(default=Path("out/reproduction"), help="Folder for the runs, tables and figures.")
@click.option("--report-only", is_flag=True, help="Train nothing; write tables and figures from existing runs.")
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
@click.option("--steps", type=click.IntRange(1), help="Fewer steps than the authors', for trials.")
def reproduce(experiment: str, data_dir: Path | None, unverified_data: bool, out: Path, **options: Any) -> None:
    """See `_HELP`."""
    report = Report(out, Results(out), get_console())
    if experiment == "page":
        report.results.export()
        pages = make_pages(out, report.results)
        for name, content in pages.items():
            write_text(out / name, content)
        report.wrote([out / name for name in pages])
        return
    record = find_experiment(experiment)
    train = not options["report_only"]
    data = _data(record, data_dir, unverified_data, train)
    settings = Settings(
        backend=options["backend"],
        seeds=range(1, options["seeds"] + 1),
        data=MNIST_DIGEST if data is None else digest(data),
        protocol=Protocol(
            network=options["network"], standardise=options["standardise"], penalty_pass=options["penalty_pass"]
        ),
        choices=Choices(options["draw"], options["jacreg"], options["entropy"]),
        steps=options["steps"],
        cells=options["cells"],
        measure=options["measure"],
        train=train,
    )
    jobs = record.jobs(settings)
    if not train:
        record.report(settings, report)
        return
    parallel = {name: options[name] for name in ("workers", "scheduler", "together")}
    with held(out):
        report = Report(out, Results(out), report.console)  # reread now that no other command adds runs
        count = run_missing(jobs, record.run_jobs, data, report.results, **parallel)
        report.results.export()
        report.console.print(f"{count} of {len(jobs)} runs done now, the others existed.")
        record.report(settings, report)


main = reproduce


def _data(record: Experiment, data_dir: Path | None, unverified: bool, train: bool) -> Mnist | None:
    if not record.needs_data or (data_dir is None and not train):
        return None
    if data_dir is None:
        raise InputError(
            f"reproduce {record.name}: expected --data-dir, a folder with MNIST's four files (train-images-idx3-ubyte, "
            "train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte, gzipped or not). Nothing is "
            "downloaded: get them from a dataset hub or a mirror of the original site; their checksums are verified."
        )
    return load(data_dir, unverified)
