"""Docstrings of classes whose arguments come from several bases: ``help()`` explains every one, each written once."""

import re
from inspect import cleandoc
from itertools import groupby

__all__ = ["with_inherited_arguments"]

_HEADING = "\nArgs:\n"
_ENTRY = re.compile(r"^    (\w+(?:, \w+)*): ", re.M)


def _parts(doc: str) -> tuple[str, dict[str, str], str]:
    """The text before the arguments, the meaning of every argument by its name, and the text after them."""
    before, _, rest = cleandoc(doc).partition(_HEADING)
    block, _, after = re.sub(r"\n\n(?=\S)", "\0", rest, count=1).partition("\0")
    pieces = iter(_ENTRY.split(block)[1:])
    meanings = {name: text.rstrip() for names, text in zip(pieces, pieces, strict=True) for name in names.split(", ")}
    return before.rstrip(), meanings, after


def with_inherited_arguments(cls: type) -> str | None:
    """The docstring of `cls`, with the arguments that only its bases' docstrings explain, which come first.

    The arguments stand where the docstring's own are, or at its end. None for a class without a docstring, as under
    ``python -OO``.
    """
    own = cls.__dict__.get("__doc__")
    if own is None:
        return None
    before, mine, after = _parts(own)
    inherited = [_parts(base.__doc__ or "")[1] for base in reversed(cls.__mro__[1:])]
    meanings = {name: text for part in (*inherited, mine) for name, text in part.items()}
    if not meanings:
        return str(own)
    alike = groupby(meanings, key=meanings.__getitem__)
    entries = "".join(f"    {', '.join(names)}: {text}\n" for text, names in alike)
    return f"{before}\n{_HEADING}{entries}\n{after}".rstrip() + "\n"
