"""Operations made wrong on purpose are detected, and the same done right pass."""

from dataclasses import replace

import pytest

from gradreg_jax.versions import enable_x64
from gradreg_sweep.operation import Operation
from gradreg_sweep.registry import framework
from gradreg_sweep.search import Finding, examine
from instruments.sweep.findings import FEW, disagreement, run
from instruments.sweep.planted import FRAMEWORKS, square


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_gradient_stopped_inside_is_caught(name: str) -> None:
    swept = framework(name)
    finding = examine(swept, square(name, cut=True), swept.modes[0], FEW)
    assert finding.kind == "wrong"
    assert finding.configuration["b"] == 1
    assert finding.configuration["n"] == 2
    assert disagreement(run_in_single_too(finding, name)) > 1e-2


def test_a_value_that_is_not_finite_is_no_finding() -> None:
    swept = framework("torch")
    finding = examine(swept, Operation("log", "torch.log(h - 9)"), swept.modes[0], FEW)
    assert (finding.kind, finding.detail) == ("undecided", "the value itself is not finite")


def run_in_single_too(finding: Finding, name: str) -> str:
    """`run`, with JAX's float64 switched on for the program alone."""
    if name != "jax":
        return run(finding)

    program = finding.reproduction.replace('jax.config.update("jax_enable_x64", True)\n', "")
    with enable_x64(True):
        return run(replace(finding, reproduction=program))


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_same_done_right_passes(name: str) -> None:
    swept = framework(name)
    assert examine(swept, square(name, cut=False), swept.modes[0], FEW).kind == "right"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("h.detach() * 2", "first derivative"),
        ("h.sqrt().nan_to_num() * 0 + h**2 * h.detach()", "first derivative"),
        ("(h * h).sin()", "right"),
    ],
)
def test_a_wrong_first_derivative_is_told_apart(code: str, kind: str) -> None:
    swept = framework("torch")
    assert examine(swept, Operation("mine", code), "eager", FEW).kind == kind
