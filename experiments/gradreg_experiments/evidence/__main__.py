"""``python -m gradreg_experiments.evidence``: runs what is missing and writes the page."""

import time
from pathlib import Path

import click
from threadpoolctl import threadpool_limits

from gradreg_core.cli.files import write_text
from gradreg_core.cli.terminal import get_console, out_option, progress_bar
from gradreg_experiments.evidence.experiment import METHODS, TASKS, key
from gradreg_experiments.evidence.page import make_page
from gradreg_experiments.evidence.training import train
from gradreg_experiments.folder import held
from gradreg_experiments.results import Results
from gradreg_experiments.runner import versions
from gradreg_experiments.weights.training import Seeds

__all__ = ["main"]


@click.command(epilog="\b\nExample:\n  python -m gradreg_experiments.evidence --minutes 20")
@click.option("--data-dir", type=click.Path(path_type=Path), help="A folder with MNIST's four files.")
@click.option("--minutes", type=click.FloatRange(min=0), default=240.0, help="No new run after this many minutes.")
@out_option(default=Path("out/evidence"))
@click.option("--page-only", is_flag=True, help="Train nothing; write the page from existing results.")
def main(data_dir: Path | None, minutes: float, out: Path, page_only: bool) -> None:
    """Compare gradient penalties with their rivals on small data, and write results.jsonl and README.md.

    Runs that have a result are not repeated. Without --data-dir, MNIST is left out.
    """
    with held(out):
        results = Results(out)
        if not page_only:
            _run_missing(data_dir, minutes, results)
        results.export()
    write_text(out / "README.md", make_page(results))
    get_console().print(f"Wrote {out / 'README.md'}.")


def _run_missing(data_dir: Path | None, minutes: float, results: Results) -> None:
    end = time.monotonic() + 60 * minutes
    pairs = [(task, method) for task in TASKS for method in METHODS if task.data != "MNIST" or data_dir is not None]
    with progress_bar("methods x tasks", len(pairs)) as bar, threadpool_limits(1):
        seeds: Seeds | None = None
        for task, method in pairs:
            if key(task, method) not in results and time.monotonic() < end:
                start = time.process_time()
                if seeds is None or seeds.task != task:
                    seeds = Seeds.make(task, data_dir)
                result = {"key": key(task, method), "task": task.name, "method": method.name}
                outcome = train(seeds, method)
                took = {"cpu_seconds": round(time.process_time() - start, 1), "versions": versions("torch")}
                results.add(result | outcome | took)
            bar.advance()


if __name__ == "__main__":
    main()
