"""Calls with arguments of any type give the right value or gradreg's own error; see tests/faults/fuzz.py."""

import importlib.util
import sys
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[1] / "faults" / "fuzz.py"
_SPEC = importlib.util.spec_from_file_location("argument_fuzz", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
fuzz = importlib.util.module_from_spec(_SPEC)
sys.modules["argument_fuzz"] = fuzz  # dataclasses look there
_SPEC.loader.exec_module(fuzz)


@pytest.mark.parametrize("framework", fuzz.FRAMEWORKS)
def test_no_argument_gives_a_wrong_value_or_a_foreign_error(framework: str) -> None:
    counts, faults = fuzz.run((framework,), examples=50, seed=3)
    assert not faults, "\n".join(faults)
    assert counts[framework]["refused"] > counts[framework]["value"] > 0
