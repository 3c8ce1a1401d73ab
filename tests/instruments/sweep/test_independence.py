"""The sweep judges frameworks by nothing that gradreg computes with."""

import grimp

SHARED = {"gradreg_core.errors", "gradreg_core.cli.terminal"}


def test_the_sweep_shares_no_arithmetic_with_the_kit_or_the_backends():
    graph = grimp.build_graph("gradreg_sweep", "gradreg_core", "gradreg_conformance", "gradreg_numpy")
    own = {module for module in graph.modules if module.startswith("gradreg_sweep")}
    imported = {name for module in own for name in graph.find_modules_directly_imported_by(module)} - own
    assert {name for name in imported if not name.startswith("gradreg_core.plugins.")} <= SHARED
    assert "gradreg_core.errors" in imported
