"""Operations made wrong on purpose are detected, and the same done right pass."""

from dataclasses import replace

import pytest

from gradreg_jax.versions import enable_x64
from gradreg_sweep.operation import Operation
from gradreg_sweep.registry import framework
from gradreg_sweep.search import Finding, examine
from instruments.sweep.findings import FEW, disagreement, run

# The square, whose first derivative is right, and whose second is cut off, or is not.
TENSORFLOW = """@tf.custom_gradient
def square(h):
    return h**2, lambda up: 2 * {held} * up"""
JAX = """@jax.custom_vjp
def square(h):
    return h**2


square.defvjp(lambda h: (h**2, h), lambda h, up: (2 * {held} * up,))"""
TORCH = """class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return h**2

    @staticmethod
    def backward(ctx, up):
        return 2 * {held} * up


square = Square.apply"""
SQUARES: dict[str, tuple[str, str, str]] = {
    "tensorflow": (TENSORFLOW, "tf.stop_gradient(h)", "h"),
    "jax": (JAX, "jax.lax.stop_gradient(h)", "h"),
    "torch": (TORCH, "ctx.saved_tensors[0].detach()", "ctx.saved_tensors[0]"),
}


def square(name: str, right: bool) -> Operation:
    code, cut, whole = SQUARES[name]
    return Operation("square", "square(h)", setup=code.replace("{held}", whole if right else cut))


@pytest.mark.parametrize("name", SQUARES)
def test_a_gradient_stopped_inside_is_caught(name: str) -> None:
    swept = framework(name)
    finding = examine(swept, square(name, right=False), swept.modes[0], FEW)
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


@pytest.mark.parametrize("name", SQUARES)
def test_the_same_done_right_passes(name: str) -> None:
    swept = framework(name)
    assert examine(swept, square(name, right=True), swept.modes[0], FEW).kind == "right"


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
