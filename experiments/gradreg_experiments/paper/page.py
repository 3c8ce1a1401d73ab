"""The pages about the reproduction, made from the results: runs, outcomes, and what was not run."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from gradreg_experiments.paper.experiment import Experiment, Page
from gradreg_experiments.paper.experiments import experiments
from gradreg_experiments.paper.tables import markdown
from gradreg_experiments.results import Results
from gradreg_experiments.trainers import trainable

__all__ = ["make_pages"]

_COVERAGE = ("experiment", "framework", "runs done, ten seeds each", "fewest seeds of a cell")


def make_pages(out: Path, results: Results) -> dict[str, str]:
    """The pages as Markdown, by file name: README.md, and one page per experiment that was run.

    Args:
        out: the folder with the figures.
        results: the finished runs.
    """
    backends = dict.fromkeys([*trainable(), *(result["backend"] for result in results if "backend" in result)])
    page = Page(out, results, tuple(backends))
    records = experiments().values()
    texts = {record.name: "\n\n".join(block for block in record.section(page) if block) for record in records}
    environment = Environment(  # noqa: S701 - Markdown, not HTML
        loader=PackageLoader("gradreg_experiments.paper", "texts"),
        trim_blocks=True,
        keep_trailing_newline=False,
        undefined=StrictUndefined,
    )
    front = environment.get_template("page.md.j2").render(
        versions=_versions(results),
        sections=[
            {"title": record.title, "file": texts[record.name] and _file(record), **_front(record, page)}
            for record in records
        ],
        coverage=markdown(_COVERAGE, [row for record in records for row in record.coverage(page)]),
    )
    finished = [record for record in records if texts[record.name]]
    return {"README.md": front + "\n"} | {
        _file(record): f"# {record.title}\n\n{texts[record.name]}\n" for record in finished
    }


def _file(record: Experiment) -> str:
    """The page's name, which differs from the names of one framework's tables."""
    return f"{record.name}-all.md"


def _front(record: Experiment, page: Page) -> dict[str, str]:
    """The picture and the verdicts on the first page."""
    return {"picture": page.first_picture(record.name, record.title), "verdicts": record.verdicts(page)}


def _versions(results: Results) -> str:
    versions: dict[str, set[str]] = {}
    for result in results:
        for name, version in result.get("versions", {}).items():
            versions.setdefault(name, set()).add(str(version))
    return ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in sorted(versions.items()))
