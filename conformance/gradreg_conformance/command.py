"""The command ``gradreg conformance``."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from gradreg_conformance import console
from gradreg_conformance.page import to_html
from gradreg_conformance.processes import run_each
from gradreg_conformance.report import Report, read_reports, to_json
from gradreg_conformance.runner import run_checks, select
from gradreg_core.cli.files import write_text
from gradreg_core.errors import InputError
from gradreg_core.plugins.dispatch import find_backend

__all__ = ["conformance"]

_WRITERS = {".json": to_json, ".html": to_html}


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option(
    "--profile",
    type=click.Choice(["quick", "default", "thorough"]),
    default="quick",
    show_default=True,
    help="How many examples a check draws.",
)
@click.option("--device", default="", metavar="DEVICE", help="cpu or cuda; without it the backend's first.")
@click.option("--check", "checks", multiple=True, metavar="CHECK", help="Run this check alone. Repeat it for several.")
@click.option("--keep-going", is_flag=True, help="After a failure in one layer of checks, run the later ones too.")
@click.option(
    "--report",
    "files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write FILE.json or FILE.html. Repeat it for both.",
)
@click.option(
    "--from", "reading", is_flag=True, help="The NAMEs are reports, FILE.json, to be put together; run nothing."
)
@click.option("--part", is_flag=True, hidden=True, help="One of several runs, whose report is put together elsewhere.")
@click.option("--list", "listing", is_flag=True, help="List the checks and run nothing.")
def conformance(
    names: tuple[str, ...],
    profile: str,
    device: str,
    checks: tuple[str, ...],
    keep_going: bool,
    files: tuple[Path, ...],
    reading: bool,
    part: bool,
    listing: bool,
) -> None:
    """Test whether backends compute the right penalties and second-order gradients.

    NAME is a backend that 'gradreg backends' lists, or the 'module:callable' of a harness. Several are run one after
    the other, each in a process of its own. The exit status is 0 if all pass, 1 if not, 2 if one is absent or the
    command is wrong.
    """
    if listing:
        console.print_checks()
        return
    _expect_writable(files)
    if not names:
        raise InputError("conformance: name a backend, such as torch; 'gradreg backends' lists them.")
    names = tuple(dict.fromkeys(names))
    if reading:
        reports = [report for name in names for report in read_reports(name)]
    else:
        reports = _run(names, profile, device, checks, keep_going)
    if reading or len(names) > 1:
        console.print_matrix(reports)
    else:
        console.print_report(reports[0])
    for file in files:
        write_text(file, _WRITERS[file.suffix](reports))
        if not part:
            click.echo(f"Wrote {file}.")
    if not all(report.ok for report in reports):
        click.get_current_context().exit(1)


def _run(names: Sequence[str], profile: str, device: str, checks: Sequence[str], keep_going: bool) -> list[Report]:
    """The reports of these backends, the only one's from this process."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's greeting
    chosen = select(checks or None)
    for name in names:
        if ":" not in name:
            find_backend(name)
    if len(names) > 1:
        options = [
            *(part for check in checks for part in ("--check", check)),
            *(["--keep-going"] if keep_going else []),
        ]
        return run_each(names, profile, device, options)
    if ":" in names[0] and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with console.progress(names[0], len(chosen)) as calls:
        report = run_checks(names[0], profile, checks or None, device, stop=not keep_going, **calls._asdict())
    return [report]


def _expect_writable(files: Sequence[Path]) -> None:
    """Refuse a report that cannot be written before an hour is spent on what it would say.

    Raises:
        InputError: an unknown ending, or no such folder.
    """
    for file in files:
        if file.suffix not in _WRITERS:
            raise InputError(f"conformance: --report {file}: expected a name that ends in {' or '.join(_WRITERS)}.")
        if not file.parent.is_dir():
            raise InputError(f"conformance: --report {file}: there is no folder {file.parent}; make it first.")
        if not os.access(file.parent, os.W_OK) or file.is_dir():
            raise InputError(f"conformance: --report {file}: cannot be written; choose another name.")
