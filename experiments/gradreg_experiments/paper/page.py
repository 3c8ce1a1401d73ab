"""The page about the reproduction, made from the results: what was run, what came out, and what was not run."""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from gradreg_experiments.paper.experiment import Experiment, Page
from gradreg_experiments.paper.experiments import experiments
from gradreg_experiments.paper.tables import markdown
from gradreg_experiments.results import Results
from gradreg_experiments.trainers import trainable

__all__ = ["make_page"]

_COVERAGE = ("experiment", "framework", "runs done, ten seeds each", "fewest seeds of a cell")


def make_page(out: Path, results: Results) -> str:
    """The page as Markdown.

    Args:
        out: the folder, whose figures are shown.
        results: the finished runs.
    """
    backends = dict.fromkeys([*trainable(), *(result["backend"] for result in results if "backend" in result)])
    page = Page(out, results, tuple(backends))
    records = experiments().values()
    environment = Environment(  # noqa: S701 - Markdown, not HTML
        loader=PackageLoader("gradreg_experiments.paper", "texts"),
        trim_blocks=True,
        keep_trailing_newline=False,
        undefined=StrictUndefined,
    )
    rows = [row for record in records for row in record.coverage(page)]
    return (
        environment.get_template("page.md.j2").render(
            versions=_versions(results),
            sections=[{"title": record.title, "text": _text(record, page)} for record in records],
            coverage=markdown(_COVERAGE, rows),
        )
        + "\n"
    )


def _text(record: Experiment, page: Page) -> str:
    blocks = record.section(page)
    return "\n\n".join(block for block in blocks if block) if blocks else "Not run yet."


def _versions(results: Results) -> str:
    versions: dict[str, set[str]] = {}
    for result in results:
        for name, version in result.get("versions", {}).items():
            versions.setdefault(name, set()).add(str(version))
    return ", ".join(f"{name} {' and '.join(sorted(numbers))}" for name, numbers in sorted(versions.items()))
