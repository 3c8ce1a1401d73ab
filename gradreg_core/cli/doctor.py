"""``gradreg doctor``: imports the installed backends, and reports versions, devices and problems."""

import json
import os
import platform
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click

from gradreg_core.cli.processes import run_python
from gradreg_core.cli.versions import module_version
from gradreg_core.errors import GradregError
from gradreg_core.plugins.discovery import BackendRecord, CommandRecord, backends, commands
from gradreg_core.plugins.dispatch import BACKEND_VARIABLE, find_backend
from gradreg_core.plugins.loading import HANGING

__all__ = ["Probe", "doctor", "probe"]

_MARK = "gradreg-probe:"
_CODE = """
import importlib, json, sys
from gradreg_core.plugins import loading
mark, name, hanging, *modules = sys.argv[1:]
loading.HANGING.update(json.loads(hanging))
versions = {module: getattr(importlib.import_module(module), "__version__", None) for module in modules}
from gradreg_core.plugins.dispatch import find_backend, load_backend, load_component
load_backend(name)
devices = load_component(name, "devices")() if find_backend(name).description.devices else []
print(); print(mark + json.dumps({"versions": versions, "devices": devices}))
"""


@dataclass(frozen=True)
class Probe:
    """The result of importing a backend in its own process."""

    versions: dict[str, str | None]
    devices: tuple[str, ...]
    problem: str = ""


@click.command(epilog="\b\nExample:\n  gradreg doctor torch jax")
@click.argument("names", nargs=-1, metavar="[BACKEND]...")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120.0,
    show_default=True,
    help="Seconds that one backend may take to import.",
)
def doctor(names: tuple[str, ...], timeout: float) -> None:
    """Import the backends, each in its own process, and report versions, devices and problems.

    Without names all installed backends are imported. The exit status is 1 if a plugin is broken, or if a backend that
    was named, here or by GRADREG_BACKEND, cannot be used; 2 if a name given here is unknown.
    """
    known = {record.name for record in backends()}
    for name in names:
        if name not in known:
            find_backend(name)  # raises the error that names the nearest match
    click.echo(f"python {platform.python_version()} ({platform.platform()})")
    click.echo(f"gradreg {module_version('gradreg') or '(not installed)'}")
    click.echo(f"numpy {module_version('numpy') or '(not installed)'}")
    for variable in sorted(name for name in os.environ if name.startswith("GRADREG_")):
        click.echo(f"{variable}={os.environ[variable]}")

    chosen = os.environ.get(BACKEND_VARIABLE, "").strip()
    asked = {*names, chosen} - {""}
    records = [record for record in backends() if not names or record.name in asked]
    problems = [*_broken(), *(message for name in sorted(asked) if (message := _unusable(name, chosen)))]
    usable = [record for record in records if record.status == "ok"]
    with ThreadPoolExecutor(max_workers=2) as pool:
        probes = list(pool.map(lambda record: probe(record, timeout), usable))
    for record, result in zip(usable, probes, strict=True):
        click.echo(_line(record, result))
        if result.problem and record.name in asked:
            problems.append(f"{record.name}: {result.problem}")
    for record in records:
        if record.status == "missing":
            click.echo(f"{record.name}: {record.reason}")
    for problem in dict.fromkeys(problems):
        click.echo(f"problem: {problem}")
    if problems:
        click.get_current_context().exit(1)


def probe(record: BackendRecord, timeout: float) -> Probe:
    """Import what `record` needs, and load it, in another process: a crash or a hang there is a result here.

    Args:
        record: a backend whose modules are installed.
        timeout: seconds.
    """
    assert record.description is not None
    hanging = json.dumps(sorted(HANGING))  # the other process need not wait for them again
    arguments = [_MARK, record.name, hanging, *record.description.modules]
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "false")}
    result = run_python("-c", _CODE, *arguments, timeout=timeout, environment=environment)
    report = next((line for line in result.stdout.splitlines() if line.startswith(_MARK)), None)
    if report is None:
        return Probe({}, (), f"importing it {result.ending}")
    answer: dict[str, Any] = json.loads(report.removeprefix(_MARK))
    return Probe(answer["versions"], tuple(map(str, answer["devices"])))


def _broken() -> Iterator[str]:
    """The problems of all plugins, requested or not."""
    records: list[BackendRecord | CommandRecord] = [*backends(), *commands()]
    for record in records:
        if record.status == "broken":
            yield f"{record.name if record.description is not None else record.plugin}: {record.reason}"


def _unusable(name: str, chosen: str) -> str:
    """Why the requested backend cannot be used, as far as is known without importing it."""
    try:
        find_backend(None if name == chosen else name)
    except GradregError as error:
        return str(error)
    return ""


def _line(record: BackendRecord, result: Probe) -> str:
    if result.problem:
        return f"{record.name}: FAILED: {result.problem}"
    versions = ", ".join(f"{module} {version or '(no version)'}" for module, version in result.versions.items())
    devices = f"; devices: {', '.join(result.devices)}" if result.devices else ""
    return f"{record.name}: ok: {versions or 'no modules needed'}{devices}"
