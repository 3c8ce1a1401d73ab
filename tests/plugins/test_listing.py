"""`gradreg backends`."""

import re

from click.testing import CliRunner

from gradreg_core.cli.main import main


def test_the_table_has_every_backend_and_every_reason(on_path):
    on_path("working", "broken")
    result = CliRunner().invoke(main, ["backends"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    heads = [line.split(" ")[0] for line in lines]
    assert re.fullmatch(r"acme +ok +gradreg-acme 1\.2\.0 +numpy \S+ +linear_only *", lines[heads.index("acme")])
    assert re.match(r"acme-raises +BROKEN +gradreg-acme-broken 1\.2\.0", lines[heads.index("acme-raises")])
    assert "acme-exits: importing 'gradreg_acme_broken.exits' failed: SystemExit: 3" in lines
