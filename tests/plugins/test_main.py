"""The command `gradreg`: help, version, commands of plugins, and errors."""

import re
from importlib import metadata

import click
import pytest
from click.testing import CliRunner

from gradreg_core.cli.main import main
from gradreg_core.plugins.discovery import commands


def invoke(*arguments):
    return CliRunner().invoke(main, list(arguments))


def section(output, title):
    """The rows of one section of the help: (name, rest of the line)."""
    lines = output.partition(f"{title}:\n")[2].partition("\n\n")[0].splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line[2] != " ")


def test_help_lists_the_commands_of_all_plugins(on_path):
    on_path("working")
    result = invoke("--help")
    assert result.exit_code == 0
    rows = section(result.output, "Commands")
    assert list(rows) == sorted(record.name for record in commands())
    assert rows["acme"] == "Repeat a word."
    assert rows["acme-plot"] == "Draw a figure."
    assert "Broken plugins" not in result.output


def test_help_imports_no_command(run, installed):
    code = """
import sys
from gradreg_core.cli.main import main
try:
    main(["--help"])
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = run("-c", code, paths=[installed["working"]])
    assert done.returncode == 0, done.stderr
    modules = set(done.stderr.split())
    assert "gradreg_acme.plugin" in modules
    targets = {record.description.target.partition(":")[0] for record in commands() if record.description is not None}
    assert len(targets) >= 8
    assert (
        modules
        & {
            *targets,
            "gradreg_acme.command",
            "gradreg_validation.agreement",
            "hypothesis",
            "joblib",
            "rich",
            "torch",
            "jax",
        }
        == set()
    )


def test_help_lists_broken_plugins_with_their_reasons(on_path):
    on_path("broken")
    output = " ".join(invoke("--help").output.split())
    assert "Broken plugins: acme-none gradreg-acme-broken 1.2.0 (entry point 'acme-none'): it has no hook" in output
    assert "RuntimeError: the acme licence has expired since Tuesday" in output
    assert "'doctor' is a command of gradreg" in output


def test_a_plugins_command_runs(on_path):
    on_path("working", "broken")
    result = invoke("acme", "gradient")
    assert (result.exit_code, result.output) == (0, "said gradient\n")
    assert "Say it again." in invoke("acme", "--help").output


def test_an_error_of_gradreg_is_one_line_and_status_2(on_path):
    on_path("working")
    result = invoke("acme", "wrong")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "error: SpectReg: weight must be at least 0, got -1.\n"


def test_a_command_whose_module_is_absent_says_what_to_install(on_path):
    on_path("working")
    result = invoke("acme-plot")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: main acme-plot: No module named 'gradreg_acme.absent'. "
        'Install what it needs with: pip install "gradreg-acme[plot]"\n'
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "acme-none",
            r"its plugin is broken: gradreg-acme-broken 1\.2\.0 \(entry point 'acme-none'\): it has no hook .*\.",
        ),
        ("acme-nothing", r"expected gradreg_acme_broken\.factories:nothing to be a click command\."),
    ],
)
def test_a_broken_command_says_why(on_path, name, message):
    on_path("broken")
    result = invoke(name)
    assert result.exit_code == 2
    assert re.fullmatch(f"error: main {name}: {message}\n", result.stderr)


def test_an_unknown_command_is_a_usage_error(on_path):
    on_path("working")
    result = invoke("acm")
    assert result.exit_code == 2
    assert "No such command 'acm'" in result.stderr


def test_an_argument_too_many_has_its_sentence_and_the_remedy_another(on_path):
    result = invoke("backends", "nope")
    assert result.exit_code == 2
    assert result.stderr == "error: Got unexpected extra argument (nope). 'main backends --help' shows an example.\n"


def test_every_built_in_command_is_there(on_path):
    on_path()
    for record in commands():
        command = main.get_command(click.Context(main), record.name)
        assert isinstance(command, click.Command), record.name


BUILT_IN = sorted(record.name for record in commands())


@pytest.mark.parametrize("name", ["", *BUILT_IN])
def test_help_fits_80_columns_and_that_of_a_command_has_an_example(name):
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, [*filter(None, [name]), "--help"])
    assert result.exit_code == 0, result.output
    assert [line for line in result.output.splitlines() if len(line) > 80] == []
    assert "Example" in result.output or not name


@pytest.mark.parametrize("name", BUILT_IN)
def test_help_names_every_choice(name):
    for parameter in main.get_command(click.Context(main), name).params:
        if isinstance(parameter.type, click.Choice) and parameter.metavar is not None:
            words = set(re.findall(r"[\w-]+", parameter.help))
            assert words >= set(parameter.type.choices), parameter.name


def test_the_version_is_the_distributions(monkeypatch):
    monkeypatch.setattr(metadata, "version", {"gradreg": "1.2.3"}.__getitem__)
    result = invoke("--version")
    assert (result.exit_code, result.output) == (0, "gradreg 1.2.3\n")


def test_the_version_of_an_uninstalled_checkout_is_unknown(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert invoke("--version").output == "gradreg (not installed)\n"
