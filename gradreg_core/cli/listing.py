"""``gradreg backends``: the backends of all plugins."""

import json
from typing import Any, TextIO

import click

from gradreg_core.cli.streams import prints_to_stderr
from gradreg_core.cli.versions import module_version
from gradreg_core.plugins import discovery
from gradreg_core.plugins.discovery import BackendRecord

__all__ = ["backends"]

_STYLES = {"ok": "green", "missing": "yellow", "broken": "bold red"}


@click.command(epilog="\b\nExample:\n  gradreg backends --json")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def backends(as_json: bool) -> None:
    """List the backends, and why any of them cannot be used."""
    with prints_to_stderr(as_json, for_good=True) as stdout:
        _list(as_json, stdout)


def _list(as_json: bool, stdout: TextIO) -> None:
    rows = [_row(record) for record in discovery.backends()]
    if as_json:
        click.echo(json.dumps(rows, indent=2), file=stdout)
        return
    from rich.text import Text

    from gradreg_core.cli.terminal import get_console, make_table

    table = make_table(["backend", "status", "from", "needs", "capabilities"])
    for row in rows:
        status = Text("BROKEN" if row["status"] == "broken" else row["status"], _STYLES[row["status"]])
        owner = f"{row['distribution']} {row['version'] or ''}".rstrip()
        needs = ", ".join(f"{module} {version or ''}".rstrip() for module, version in row["modules"].items())
        table.add_row(row["name"], status, owner, needs, ", ".join(row["capabilities"]))
    console = get_console()
    console.print(table)
    for row in rows:
        if row["reason"]:
            console.print(f"{row['name']}: {row['reason']}")


def _row(record: BackendRecord) -> dict[str, Any]:
    description, plugin = record.description, record.plugin
    return {
        "name": record.name,
        "status": record.status,
        "reason": record.reason,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "entry_point": plugin.entry_point,
        "modules": {module: module_version(module) for module in description.modules} if description else {},
        "capabilities": list(description.capabilities) if description else [],
        "spec_version": description.spec_version if description else None,
        "install": description.install if description else None,
    }
