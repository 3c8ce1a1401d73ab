"""The English of docstrings, comments, messages and pages: patterns that a native writer would not use."""

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from documents import ROOT

FOLDERS = ("gradreg_core", "backends", "conformance", "experiments", "examples", "docs", "tests")
EXAMPLES = "tests/docs/test_english.py"
"""This file, which holds examples of what it forbids."""
ADVERBS = "longer|more|better|worse|less|other|easier|harder|faster|slower|larger|smaller|different"
NEGATED_NOUN = re.compile(rf"(?<!\bthere )\b(?:is|are) no (?!(?:{ADVERBS})\b)\w+", re.I)
"""Such as "it is no integer"; "there is no integer" and "it is no longer" are right."""


def files(suffix: str) -> list[Path]:
    """The project's files with this suffix, but this one."""
    folders = [ROOT.glob(f"*{suffix}"), *((ROOT / folder).rglob(f"*{suffix}") for folder in FOLDERS)]
    paths = sorted(path for folder in folders for path in folder)
    return [path for path in paths if not _is_left_out(path.relative_to(ROOT))]


def _is_left_out(path: Path) -> bool:
    is_built = {"build", ".venv"} & set(path.parts)
    return bool(is_built) or path.as_posix().startswith(EXAMPLES)


def docstrings(source: str) -> Iterator[str]:
    """The docstrings of a module, its classes, functions and constants."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield text


def prose(source: str) -> Iterator[str]:
    """The strings of a module, with docstrings and messages, and its comments, each block of lines as one."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)):
                yield text
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    yield "\n".join(token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT)


def page(path: Path) -> str:
    """The text of a page, or of the Markdown cells of a notebook."""
    text = path.read_text()
    if path.suffix == ".ipynb":
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n\n".join("".join(cell) for cell in cells)
    return re.sub(r"^( *)```.*?^\1```", "", text, flags=re.M | re.S)


def negated_nouns(text: str) -> list[str]:
    """The places where a text says that something "is no" noun."""
    return NEGATED_NOUN.findall(" ".join(text.split()))


def starts_with_what(docstring: str) -> bool:
    """Whether a docstring starts with a clause instead of a noun or a verb."""
    return docstring.startswith("What ")


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("The value is no integer.", 1),
        ("Labels that are\n    no distribution", 1),
        ("There is no integer, and where there are no labels, nothing is left.", 0),
        ("It is no longer slow, and is not an integer.", 0),
    ],
)
def test_negated_nouns_are_noticed(text: str, count: int) -> None:
    assert len(negated_nouns(text)) == count


def test_docstrings_that_start_with_a_clause_are_noticed() -> None:
    source = '"""Values."""\nsize = 1\n"""What it holds."""\ndef call():\n    """What a call returns."""\n'
    assert [starts_with_what(text) for text in docstrings(source)] == [False, True, True]


def test_prose_has_comments_and_messages() -> None:
    source = 'raise ValueError(f"{name} is no "\n    "integer")  # which is no\n# number\n'
    assert sum(len(negated_nouns(text)) for text in prose(source)) == 2


def test_no_docstring_starts_with_what() -> None:
    read = {path: list(docstrings(path.read_text())) for path in files(".py")}
    assert len(read) > 200
    assert [f"{path}: {text}" for path, texts in read.items() for text in texts if starts_with_what(text)] == []


def test_nothing_is_no_noun() -> None:
    read = {path: "\n\n".join(prose(path.read_text())) for path in files(".py")}
    read |= {path: page(path) for suffix in (".md", ".ipynb") for path in files(suffix)}
    assert len(read) > 250
    assert [f"{path}: {clause}" for path, text in read.items() for clause in negated_nouns(text)] == []
