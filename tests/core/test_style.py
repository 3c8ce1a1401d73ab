"""The sizes of modules and functions, and the names of variables, in all of the project but its tests."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import gradreg_core

ROOT = Path(gradreg_core.__file__).parents[1]
FOLDERS = ("gradreg_core", "backends", "conformance", "experiments", "examples")
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60
VAGUE = frozenset({"each", "found", "what"})
FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    """The files of the project that are not tests."""
    files = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    return [file for file in files if not {"tests", "build", ".venv"} & set(file.relative_to(ROOT).parts)]


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that a module gives to variables, arguments, attributes, functions and imports, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, node.lineno
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                yield from ((alias.asname or alias.name, node.lineno) for alias in aliases)


def long_modules(text: str) -> list[str]:
    """A line of complaint if the module is too long."""
    lines = len(text.splitlines())
    return [f"{lines} lines, at most {LONGEST_MODULE} wanted"] if lines > LONGEST_MODULE else []


def long_functions(text: str) -> list[str]:
    """A line of complaint for every function that is too long."""
    complaints = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTIONS):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LONGEST_FUNCTION:
                complaints.append(
                    f"line {node.lineno}: {node.name} has {lines} lines, at most {LONGEST_FUNCTION} wanted"
                )
    return complaints


def vague_names(text: str) -> list[str]:
    """A line of complaint for every name that does not say what it holds."""
    return [
        f"line {line}: the name {name!r} does not say what it holds"
        for name, line in sorted(bound_names(ast.parse(text)), key=lambda pair: pair[1])
        if name in VAGUE
    ]


@pytest.mark.parametrize("rule", [long_modules, long_functions, vague_names], ids=lambda rule: rule.__name__)
def test_the_source_keeps_the_rule(rule) -> None:
    complaints = [
        f"{file.relative_to(ROOT)}: {complaint}"
        for file in sources()
        for complaint in rule(file.read_text(encoding="utf-8"))
    ]
    assert not complaints, "\n".join(["", *complaints])


def test_the_source_is_looked_at() -> None:
    names = {file.relative_to(ROOT).as_posix() for file in sources()}
    assert {"gradreg_core/spec.py", "backends/gradreg_torch/backend.py"} <= names
    assert {"conformance/gradreg_conformance/runner.py", "gradreg_core/cli/main.py"} <= names
    assert not any(name.startswith("tests/") for name in names)


def test_these_rules_can_fail() -> None:
    assert long_modules("x = 1\n" * 400) == []
    assert long_modules("x = 1\n" * 401) == ["401 lines, at most 400 wanted"]
    body = "    x = 1\n"
    assert long_functions("def short():\n" + body * 59) == []
    assert long_functions("class A:\n  async def long(self):\n" + body * 60) == [
        "line 2: long has 61 lines, at most 60 wanted"
    ]


@pytest.mark.parametrize(
    "text",
    [
        "found = 1",
        "for each in (): pass",
        "[each for each in ()]",
        "def f(what): pass",
        "lambda *, found: 1",
        "self.found = 1",
        "class A:\n    what: int",
        "with open('x') as found: pass",
        "try: pass\nexcept ValueError as what: pass",
        "if (found := 1): pass",
        "import numpy as each",
        "def found(): pass",
    ],
)
def test_vague_names_are_seen(text: str) -> None:
    assert len(vague_names(text)) == 1


def test_other_uses_of_the_words_are_none_of_the_rule() -> None:
    assert vague_names("call(what=1)\nprint(finder.found, 'each')\nfounded = each_row = 1  # found") == []
