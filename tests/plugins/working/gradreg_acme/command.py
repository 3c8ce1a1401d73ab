"""A command."""

import click

from gradreg_core.errors import SpecError


@click.command()
@click.argument("word")
def acme(word):
    """Say it again."""
    if word == "wrong":
        raise SpecError("SpectReg: weight must be at least 0, got -1.")
    click.echo(f"said {word}")
