"""``gradreg doctor``: what is installed, what really imports, and what is wrong."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import click

from gradreg_core.cli.main import module_version
from gradreg_core.errors import GradregError
from gradreg_core.plugins.discovery import BackendRecord, backends, discover
from gradreg_core.plugins.dispatch import BACKEND_VARIABLE, find_backend

__all__ = ["Probe", "doctor", "probe"]

_MARK = "gradreg-probe:"
_CODE = """
import importlib, json, sys
name, modules, devices, sys.path[:] = json.loads(sys.argv[1])
versions = {each: getattr(importlib.import_module(each), "__version__", None) for each in modules}
from gradreg_core.plugins.dispatch import load_backend
load_backend(name)
print("gradreg-probe:" + json.dumps({"versions": versions, "devices": eval(devices) if devices else []}))
"""
_DEVICES = {
    "torch": "['cpu'] + [f'cuda:{i} ' + sys.modules['torch'].cuda.get_device_name(i)"
    " for i in range(sys.modules['torch'].cuda.device_count())]"
    " + ['mps'] * sys.modules['torch'].backends.mps.is_available()",
    "jax": "[f'{each.platform}:{each.id} {each.device_kind}' for each in sys.modules['jax'].devices()]",
    "tensorflow": "[each.name.removeprefix('/physical_device:')"
    " for each in sys.modules['tensorflow'].config.list_physical_devices()]",
}
"""For each top-level module the expression that lists its devices, evaluated in the probe's process."""


@dataclass(frozen=True)
class Probe:
    """What importing a backend in a process of its own gave."""

    versions: dict[str, str | None]
    devices: tuple[str, ...]
    problem: str = ""


@click.command()
@click.argument("names", nargs=-1, metavar="[BACKEND]...")
@click.option("--timeout", default=120.0, show_default=True, help="Seconds that one backend may take to import.")
def doctor(names: tuple[str, ...], timeout: float) -> None:
    """Import the backends, each in a process of its own, and report versions, devices and problems.

    Without names all installed backends are imported. The exit status is 1 if a plugin is broken, or if a backend that
    was named, here or by GRADREG_BACKEND, cannot be used.
    """
    click.echo(f"python {platform.python_version()} ({platform.platform()})")
    click.echo(f"gradreg {module_version('gradreg') or '(not installed)'}")
    click.echo(f"numpy {module_version('numpy') or '(not installed)'}")
    for variable in sorted(each for each in os.environ if each.startswith("GRADREG_")):
        click.echo(f"{variable}={os.environ[variable]}")

    chosen = os.environ.get(BACKEND_VARIABLE, "").strip()
    asked = {*names, chosen} - {""}
    records = backends()
    problems = [f"{each}: {each.reason}" for each in discover() if each.status == "broken"]
    problems += [f"{each.name}: {each.reason}" for each in records if each.reason.startswith("duplicate name")]
    problems += [message for name in sorted(asked) if (message := _unusable(name, chosen))]
    usable = [each for each in records if each.status == "ok" and (not names or each.name in asked)]
    with ThreadPoolExecutor(max_workers=2) as pool:
        probes = list(pool.map(lambda record: probe(record, timeout), usable))
    for record, seen in zip(usable, probes, strict=True):
        click.echo(_line(record, seen))
        if seen.problem and record.name in asked:
            problems.append(f"{record.name}: {seen.problem}")
    for record in records:
        if record.status == "missing" and (not names or record.name in asked):
            click.echo(f"{record.name}: {record.reason}")
    for problem in dict.fromkeys(problems):
        click.echo(f"problem: {problem}")
    if problems:
        click.get_current_context().exit(1)


def probe(record: BackendRecord, timeout: float) -> Probe:
    """Import what `record` needs, and load it, in another process: a crash or a hang there is a result here.

    Args:
        record: of a backend whose modules are installed.
        timeout: seconds.
    """
    assert record.description is not None
    modules = record.description.modules
    devices = next((_DEVICES[module] for module in modules if module in _DEVICES), "")
    argument = json.dumps([record.name, modules, devices, sys.path])
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **os.environ}
    command = [sys.executable, "-P", "-c", _CODE, argument]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, no shell
            command, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return Probe({}, (), f"importing it did not end within {timeout:g} seconds")
    report = next((line for line in done.stdout.splitlines() if line.startswith(_MARK)), None)
    if report is None:
        return Probe({}, (), _failure(done.returncode, done.stderr.splitlines()))
    found: dict[str, Any] = json.loads(report.removeprefix(_MARK))
    return Probe(found["versions"], tuple(found["devices"]))


def _failure(status: int, stderr: Sequence[str]) -> str:
    if status < 0:
        return f"importing it was ended by {signal.Signals(-status).name}"
    last = next((line.strip() for line in reversed(stderr) if line.strip()), "no message")
    return f"importing it failed with exit status {status}: {last}"


def _unusable(name: str, chosen: str) -> str:
    """Why the backend that was asked for cannot be used, as far as that is known without importing it."""
    try:
        find_backend(None if name == chosen else name)
    except GradregError as error:
        return str(error)
    return ""


def _line(record: BackendRecord, seen: Probe) -> str:
    if seen.problem:
        return f"{record.name}: FAILED: {seen.problem}"
    versions = ", ".join(f"{module} {version or '(no version)'}" for module, version in seen.versions.items())
    devices = f"; devices: {', '.join(seen.devices)}" if seen.devices else ""
    return f"{record.name}: ok: {versions or 'no modules needed'}{devices}"
