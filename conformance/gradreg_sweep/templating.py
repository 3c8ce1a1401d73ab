"""Templates of programs."""

from functools import cache

from jinja2 import Environment, StrictUndefined, Template

__all__ = ["template"]


@cache
def template(text: str) -> Template:
    """A Jinja template of Python code."""
    environment = Environment(trim_blocks=True, undefined=StrictUndefined, autoescape=False)  # noqa: S701 - Python
    return environment.from_string(text)
