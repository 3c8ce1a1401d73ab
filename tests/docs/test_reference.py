"""The reference has an entry for every public name."""

import importlib
import re
from typing import Any

import pytest

from documents import DOCS

PACKAGES = [
    "gradreg_core",
    "gradreg_torch",
    "gradreg_jax",
    "gradreg_tensorflow",
    "gradreg_keras",
    "gradreg_numpy",
    "gradreg_conformance",
    "gradreg_validation",
    "gradreg_monitor",
]
TEXT = "\n".join(page.read_text() for page in sorted((DOCS / "api").glob("*.md")))
ENTRIES = re.findall(r"^\.\. auto(?:class|function|method|data|exception):: ([\w.]+)$", TEXT, re.M)
CALLS = {"loss", "penalty", "measure", "check"}


def _value(entry: str) -> Any:
    """The object that an entry describes."""
    parts = entry.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for name in parts[count:]:
            value = getattr(value, name)
        return value
    raise AssertionError(entry)


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_entry_is_about_something(entry: str) -> None:
    assert _value(entry) is not None


def test_no_name_has_two_entries() -> None:
    assert len(set(ENTRIES)) == len(ENTRIES)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_has_an_entry(package: str) -> None:
    module = importlib.import_module(package)
    values = [(entry.rpartition(".")[2], _value(entry)) for entry in ENTRIES]
    errors = vars(importlib.import_module("gradreg_core.errors"))  # an automodule entry has them all
    missing = []
    for name in module.__all__:
        value = getattr(module, name)
        known = any(name == entry and value is other for entry, other in values) or value is errors.get(name)
        if not known and not (name in CALLS and f"gradreg_core.calls.Calls.{name}" in ENTRIES):
            missing.append(name)
    assert not missing, "docs/api has no entry for these; add one with its signature and an example"
