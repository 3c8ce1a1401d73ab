"""``python -m gradreg_experiments.faults``: injects the faults, and writes the counts and the page."""

import json
import platform
import time
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np

from gradreg_core.cli.files import write_json, write_text
from gradreg_core.cli.terminal import get_console, progress_bar
from gradreg_core.plugins.discovery import backends
from gradreg_experiments.faults.arguments import counted as count_calls
from gradreg_experiments.faults.files import HOSTILE, READERS, read_damaged, read_hostile
from gradreg_experiments.faults.runner import FAULTS
from gradreg_experiments.runner import versions

__all__ = ["main", "make_page"]


@click.command()
@click.option("--repetitions", type=click.IntRange(1), default=10, show_default=True, help="Per usual fault.")
@click.option("--files", "readings", type=click.IntRange(1), default=2000, show_default=True, help="Per format.")
@click.option(
    "--calls", type=click.IntRange(1), default=2000, show_default=True, help="Per backend, with drawn arguments."
)
@click.option("--seconds", type=float, default=float("inf"), help="Start no fault later than this.")
@click.option("--only", default="", help="Only faults whose name contains this.")
@click.option("--counts", type=click.Path(path_type=Path), default=Path("docs/reliability/faults.json"))
@click.option("--page", type=click.Path(path_type=Path), default=Path("docs/reliability.md"))
@click.option("--page-only", is_flag=True, help="Inject nothing; write the page from existing counts.")
def main(
    repetitions: int, readings: int, calls: int, seconds: float, only: str, counts: Path, page: Path, page_only: bool
) -> None:
    """Inject faults into the runner, the readers of files and the arguments of calls, and count the outcomes."""
    if not page_only:
        outcomes = {
            "runner": _runner(repetitions, seconds, only),
            "damaged": {name: _damaged(name, readings) for name in READERS if only in name},
            "hostile": {name: _hostile(name) for name in HOSTILE if only in name},
            "arguments": {name: count_calls(name, calls, seed=0) for name in _trained() if only in name},
            "versions": {"python": platform.python_version(), **versions("joblib", "distributed")},
        }
        write_json(counts, outcomes)
    numbers = json.loads(counts.read_text(encoding="utf-8"))
    write_text(page, make_page(numbers))
    get_console().print(f"Wrote {page} from {counts}.")
    if any(own["failed"] for kind in ("runner", "arguments") for own in numbers[kind].values()):
        click.get_current_context().exit(1)


def _trained() -> list[str]:
    """The backends with a trainer, the reference excepted, because it is the others' oracle."""
    return [record.name for record in backends() if record.description is not None and record.description.trainer]


def _runner(repetitions: int, seconds: float, only: str) -> dict[str, Any]:
    chosen = {name: own for name, own in FAULTS.items() if only in name}
    counts: dict[str, Any] = {name: {"injected": 0, "right": 0, "failed": []} for name in chosen}
    begin = time.monotonic()
    with progress_bar("", repetitions * len(chosen)) as bar:
        for repetition in range(repetitions):
            for name, (fault, share) in chosen.items():
                bar.describe(name)
                bar.advance()
                if repetition >= max(1, repetitions * share) or time.monotonic() - begin > seconds:
                    continue
                problem = _injected(fault, repetition)
                counts[name]["injected"] += 1
                counts[name]["right"] += not problem
                counts[name]["failed"] += [problem] if problem else []
    return counts


def _injected(fault: Any, repetition: int) -> str:
    with TemporaryDirectory() as folder:
        try:
            return str(fault(Path(folder) / "runs", repetition))
        except Exception as error:  # a fault that cannot be injected is not a success
            return f"{type(error).__name__}: {error}"


def _damaged(name: str, readings: int) -> dict[str, Any]:
    generator = np.random.default_rng(0)
    file, content, read = READERS[name]
    with TemporaryDirectory() as folder:
        (Path(folder) / file).write_bytes(content)
        read(Path(folder) / file)  # reading the right file works
        outcomes = Counter(read_damaged(name, Path(folder), generator) for _ in range(readings))
    counts = {"refused": outcomes.pop("refused", 0), "read": outcomes.pop("read", 0)}
    return {"files": readings, **counts, "failed": dict(outcomes)}


def _hostile(name: str) -> str:
    with TemporaryDirectory() as folder:
        return read_hostile(name, Path(folder))


def make_page(counts: dict[str, Any]) -> str:
    """The page as Markdown."""
    runner = [(name, str(own["injected"]), str(own["right"])) for name, own in counts["runner"].items()]
    damaged = [
        (name, str(own["files"]), str(own["refused"]), str(own["read"]), str(sum(own["failed"].values())))
        for name, own in counts["damaged"].items()
    ]
    arguments = [
        (name, *(str(own[kind]) for kind in ("calls", "value", "refused", "model")), str(len(own["failed"])))
        for name, own in counts["arguments"].items()
    ]
    hostile = [(name, problem or "refused") for name, problem in counts["hostile"].items()]
    tables = {
        "runner": _table(("fault", "times", "correct"), runner),
        "damaged": _table(("file", "damaged copies", "refused", "read", "another exception"), damaged),
        "hostile": _table(("file", "outcome"), hostile),
        "problems": _problems(counts["runner"] | counts["arguments"]),
        "arguments": _table(("backend", "calls", "a value", "refused", "the model's own error", "other"), arguments),
        "versions": ", ".join(f"{name} {version}" for name, version in counts["versions"].items()),
        "total": str(sum(own["injected"] for own in counts["runner"].values())),
    }
    text = (files(__package__) / "page.md").read_text(encoding="utf-8")
    for name, content in tables.items():
        text = text.replace("{{ " + name + " }}", content)
    return "\n".join(line.rstrip() for line in text.splitlines()).replace("\n\n\n", "\n\n") + "\n"


def _problems(runner: dict[str, Any]) -> str:
    lines = [f"- {name}: `{problem[:300]}`" for name, own in runner.items() for problem in own["failed"]]
    return "\n".join(["Wrong outcomes:", "", *lines]) if lines else "There were none."


def _table(headings: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [headings, ("---",) * len(headings), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    main()
