"""The built-in backends are what their descriptions say."""

import pytest

from gradreg_conformance.check import CHECKS, LAYERS
from gradreg_conformance.runner import all_checks, run_checks


@pytest.mark.parametrize("name", ["numpy", "torch", "jax", "tensorflow"])
def test_the_layer_loads(name: str) -> None:
    loads = [name for name in all_checks() if CHECKS[name].layer == LAYERS.index("loads")]
    assert len(loads) >= 3
    report = run_checks(name, checks=loads)
    assert report.ok, [(check.name, check.message) for check in report.checks if check.message]
