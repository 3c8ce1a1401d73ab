"""Docstrings of regularizers explain every argument, each once."""

import inspect
import re
from dataclasses import dataclass

import pytest

from gradreg_core import presets, spec
from gradreg_core.docstrings import with_inherited_arguments
from gradreg_core.projections import gaussian

REGULARIZERS = [*(getattr(presets, name) for name in presets.__all__), spec.JacobianPenalty]


def explained(doc: str) -> list[tuple[str, str]]:
    """The names of the arguments that a docstring explains, with what it says of them."""
    block = re.split(r"\n\n(?=\S)", doc.partition("\nArgs:\n")[2])[0]
    entries = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", block, re.M)
    return [(name, meaning) for names, meaning in entries for name in names.split(", ")]


@pytest.mark.parametrize("kind", REGULARIZERS, ids=lambda kind: kind.__name__)
def test_help_explains_every_argument(kind: type) -> None:
    assert kind.__doc__ is not None
    entries = explained(kind.__doc__)
    assert sorted(name for name, _ in entries) == sorted(inspect.signature(kind).parameters)
    assert all(len(meaning) > 10 and not meaning.startswith("see ") for _, meaning in entries)


def test_the_signature_is_that_of_the_fields() -> None:
    assert str(inspect.signature(presets.HoffmanReg)) == (
        "(weight: float | collections.abc.Callable[[typing.Any], typing.Any], *, every: int = 1, "
        "fraction: float = 1.0, seed: int = 0, draw: str = 'per_sample', at: str | None = None, "
        "of: str | None = None, projections: int | None = 1)"
    )
    assert str(inspect.signature(gaussian)) == "(k: int = 1)"


@dataclass
class First:
    """A first class.

    Args:
        a: one thing,
            on two lines.
        b, c: two
            things.

    Its source.
    """


class Second(First):
    """A second class.

    Args:
        c: another thing.

    Example:
        Second()
    """


class Third(Second):
    """A third class."""


def test_the_arguments_of_bases_come_first_and_those_of_the_class_itself_stand() -> None:
    assert with_inherited_arguments(Second) == (
        "A second class.\n\nArgs:\n    a: one thing,\n        on two lines.\n    b: two\n        things.\n"
        "    c: another thing.\n\nExample:\n    Second()\n"
    )


def test_a_docstring_without_arguments_gets_them_at_its_end_and_alike_ones_together() -> None:
    class Other(First):
        """Another class."""

    expected = "class.\n\nArgs:\n    a: one thing,\n        on two lines.\n    b, c: two\n        things.\n"
    assert with_inherited_arguments(Other) == f"Another {expected}"
    assert with_inherited_arguments(Third).count("another thing") == 1


def test_a_class_without_a_docstring_stays_without_one() -> None:
    class Bare(First):
        pass

    assert with_inherited_arguments(Bare) is None
    assert with_inherited_arguments(type("Alone", (), {"__doc__": "No arguments."})) == "No arguments."
