"""The command: help, version, lazy commands and errors."""

import sys
import types
from importlib import metadata

import click
import pytest
from click.testing import CliRunner

from gradreg_core.cli import main as cli
from gradreg_core.cli.main import LazyCommand, LazyGroup, main
from gradreg_core.errors import SpecError


def invoke(command, *arguments):
    return CliRunner().invoke(command, list(arguments))


@pytest.fixture
def group(monkeypatch):
    """A group with commands of its own and three lazy ones: one works, one fails, one is not there."""

    @click.command()
    @click.argument("word")
    def echo(word):
        """Say it again."""
        click.echo(f"said {word}")

    @click.command()
    def fail():
        raise SpecError("SpectReg: weight must be at least 0, got -1.")

    module = types.ModuleType("acme_commands")
    module.echo, module.fail = echo, fail
    monkeypatch.setitem(sys.modules, "acme_commands", module)
    lazy = {
        "echo": LazyCommand("acme_commands:echo", "Repeat a word."),
        "fail": LazyCommand("acme_commands:fail", "Fail."),
        "plot": LazyCommand("acme_absent_commands:plot", "Draw a figure.", 'pip install "gradreg[demo]"'),
    }

    @click.group(cls=LazyGroup, lazy=lazy)
    def acme():
        """A command."""

    @acme.command()
    def own():
        """Its own command."""
        click.echo("own")

    @acme.command(hidden=True)
    def secret():
        """Not in the list."""

    return acme


def test_help_lists_commands_without_importing_them(group):
    result = invoke(group, "--help")
    assert result.exit_code == 0
    assert [line.split(maxsplit=1) for line in result.output.partition("Commands:\n")[2].splitlines()] == [
        ["echo", "Repeat a word."],
        ["fail", "Fail."],
        ["own", "Its own command."],
        ["plot", "Draw a figure."],
    ]


def test_a_lazy_command_runs(group):
    result = invoke(group, "echo", "gradient")
    assert (result.exit_code, result.output) == (0, "said gradient\n")
    assert "Say it again." in invoke(group, "echo", "--help").output
    assert invoke(group, "own").output == "own\n"


def test_an_error_of_gradreg_is_one_line_and_status_2(group):
    result = invoke(group, "fail")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "error: SpectReg: weight must be at least 0, got -1.\n"


def test_a_lazy_command_whose_module_is_absent_says_what_to_install(group):
    result = invoke(group, "plot")
    assert result.exit_code == 2
    assert result.stderr == (
        "error: acme plot: No module named 'acme_absent_commands'. "
        'Install what it needs with: pip install "gradreg[demo]"\n'
    )


def test_an_unknown_command_is_a_usage_error(group):
    result = invoke(group, "ech")
    assert result.exit_code == 2
    assert "No such command 'ech'" in result.stderr


def test_every_command_in_the_map_is_there():
    for name, entry in cli.COMMANDS.items():
        command = main.get_command(click.Context(main), name)
        assert isinstance(command, click.Command), name
        assert entry.summary.endswith("."), name


def test_the_version_is_the_distributions(monkeypatch):
    monkeypatch.setattr(metadata, "version", {"gradreg": "1.2.3"}.__getitem__)
    result = invoke(main, "--version")
    assert (result.exit_code, result.output) == (0, "gradreg 1.2.3\n")


def test_the_version_of_an_uninstalled_checkout_is_unknown(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert invoke(main, "--version").output == "gradreg (not installed)\n"


def test_a_modules_version_is_that_of_the_distribution_that_brings_it(monkeypatch):
    def version(name):
        if name != "acme-cpu":
            raise metadata.PackageNotFoundError(name)
        return "3.1"

    monkeypatch.setattr(cli, "_providers", lambda: {"acme": ["acme-docs", "acme-cpu"]})
    monkeypatch.setattr(metadata, "version", version)
    assert cli.module_version("acme") == "3.1"
    assert cli.module_version("acme-cpu") == "3.1"
    assert cli.module_version("other") is None
