"""The command ``gradreg conformance``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from gradreg_conformance import console
from gradreg_conformance.page import to_html
from gradreg_conformance.report import Report, read_reports, to_json
from gradreg_conformance.runner import find_subject, run_checks, select
from gradreg_core.cli.files import write_text
from gradreg_core.cli.foreign import timeout_option, within
from gradreg_core.cli.processes import run_python
from gradreg_core.cli.terminal import out_option, progress_bar
from gradreg_core.errors import InputError
from gradreg_core.plugins.dispatch import find_backend

__all__ = ["conformance"]

_WRITERS = {".json": to_json, ".html": to_html}


@click.command(epilog="\b\nExample:\n  gradreg conformance torch --report torch.html")
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
@out_option(
    "--report",
    "files",
    folder=False,
    suffixes=tuple(_WRITERS),
    multiple=True,
    help="Write FILE.json or FILE.html. Repeat it for both.",
    show_default=False,
)
@click.option("--from", "reading", is_flag=True, help="Merge reports: the NAMEs are FILE.json; run nothing.")
@click.option("--part", is_flag=True, hidden=True, help="One of several runs, whose reports are merged elsewhere.")
@timeout_option
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
    timeout: float,
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
    if not names:
        raise InputError("conformance: name a backend, such as torch; 'gradreg backends' lists them.")
    names = tuple(dict.fromkeys(names))
    if reading:
        reports = [report for name in names for report in read_reports(name)]
    else:
        reports = _run(names, profile, device, checks, keep_going, timeout)
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


def _run(
    names: Sequence[str], profile: str, device: str, checks: Sequence[str], keep_going: bool, timeout: float
) -> list[Report]:
    """The reports of these backends. A single one runs in this process, several in one process each."""
    chosen = select(checks or None)
    for name in names:
        if ":" not in name:
            find_backend(name)
    if len(names) > 1:
        options = [f"--profile={profile}", f"--device={device}", *(f"--check={check}" for check in checks)]
        options += [f"--timeout={timeout}"]
        options += ["--keep-going"] if keep_going else []
        return [_run_apart(name, profile, device, options) for name in names]
    if ":" in names[0] and (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with within(timeout, f"conformance: {names[0]}"):
        subject = find_subject(names[0], profile, device)
    with progress_bar(names[0], len(chosen)) as bar:
        return [
            run_checks(
                subject,
                profile,
                checks or None,
                device,
                stop=not keep_going,
                starting=lambda check: bar.describe(f"{names[0]}: {check.name}"),
                progress=lambda result: bar.advance(),
            )
        ]


def _run_apart(name: str, profile: str, device: str, options: Sequence[str]) -> Report:
    """The report of one backend, from a process of its own that prints its table: frameworks disturb each other."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "report.json"
        command = ("-m", "gradreg_core.cli.main", "conformance", name, *options, "--part", f"--report={file}")
        child = run_python(*command, capture=False)
        if file.exists():
            return read_reports(file)[0]
    return Report(backend=name, profile=profile, device=device, error=f"the process {child.ending}")
