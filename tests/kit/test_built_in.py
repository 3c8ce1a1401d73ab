"""The built-in backends are what their descriptions say."""

import pytest

from gradreg_conformance.check import CHECKS, LAYERS
from gradreg_conformance.runner import all_checks, run_checks


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "tensorflow"])
def test_the_layer_loads(name: str) -> None:
    loads = [each for each in all_checks() if CHECKS[each].layer == LAYERS.index("loads")]
    assert len(loads) >= 3
    report = run_checks(name, checks=loads)
    assert report.ok, [(each.name, each.message) for each in report.checks if each.message]
