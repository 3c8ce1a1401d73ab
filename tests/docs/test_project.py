"""The files that a stranger meets first: README, citation, workflow, issue templates."""

import ast
import re
import tomllib

import pytest
import yaml

import gradreg_core
from documents import ROOT

README = (ROOT / "README.md").read_text()
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_readme_is_short_and_says_how_to_install_before_it_starts() -> None:
    assert README.count("\n") <= 120
    assert README.index("## Install") < README.index("## Quick start")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = re.findall(r'pip install "\.\[(\w+)\]"', README)
    assert installed == ["torch", "jax", "tensorflow"]
    assert set(installed) <= set(extras)


def test_the_two_commands_are_targets() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert {"demo", "test"} <= set(re.findall(r"^ {4}make (\w+)", README, re.M)) <= targets


def test_a_loop_of_ones_own_changes_in_two_lines() -> None:
    (block,) = re.findall(r"^```diff\n(.*?)^```", README, re.M | re.S)
    assert len(re.findall(r"^\+", block, re.M)) == 2
    assert len(re.findall(r"^-", block, re.M)) == 1


def test_tests_of_one_framework_at_both_ends_import_no_other() -> None:
    tree = ast.parse((ROOT / "noxfile.py").read_text())
    values = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    tests = ast.literal_eval(values["TESTS"])
    assert set(tests) == set(ast.literal_eval(values["FRAMEWORKS"]))
    for framework, files in tests.items():
        others = {"torch", "jax", "tensorflow"} - {framework}
        imported = re.compile(rf"^\s*(?:import|from) (?:gradreg_)?(?:{'|'.join(sorted(others))})\b", re.M)
        assert [file for file in files if imported.search((ROOT / file).read_text())] == []


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == gradreg_core.__version__
    assert {"cff-version", "message", "title", "authors"} <= set(citation)


def test_the_workflow_calls_make_and_nox_alone() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    commands = [step["run"] for step in steps if "run" in step]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert commands
    sessions = set(re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.M)) | {"${{matrix.end}}"}
    for command in commands:
        tool, *names = command.replace("${{ matrix.end }}", "${{matrix.end}}").replace(" -s", "").split()
        assert tool in ("make", ".venv/bin/nox")
        assert {name for name in names if "=" not in name} <= (targets if tool == "make" else sessions)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_issue_forms_ask_something(form) -> None:
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    assert all(part["attributes"]["label"] for part in content["body"])
