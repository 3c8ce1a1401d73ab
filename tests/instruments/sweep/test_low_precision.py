"""An error of one dtype is found in that dtype; rounding does not count as an error."""

from dataclasses import replace

import pytest

from gradreg_jax.versions import enable_x64
from gradreg_sweep.operation import Operation
from gradreg_sweep.registry import framework
from gradreg_sweep.search import Finding, examine
from instruments.sweep.findings import disagreement, run
from instruments.sweep.planted import FRAMEWORKS, square


def examined(name: str, operation: Operation, dtype: str, composition: str = "reverse-reverse") -> Finding:
    swept = framework(name)
    return examine(swept, operation, swept.modes[0], 3, composition, dtype=dtype)


def run_alone(finding: Finding) -> str:
    """`run`, with JAX's switch of float64 as it was afterwards."""
    text = finding.reproduction.replace('jax.config.update("jax_enable_x64", dtype == "float64")', "pass")
    with enable_x64(True):
        return run(replace(finding, reproduction=text))


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_gradient_stopped_in_bfloat16_alone_is_found_there_and_shown(name: str) -> None:
    planted = square(name, "bfloat16")
    finding = examined(name, planted, "bfloat16")
    assert (finding.kind, finding.dtype) == ("wrong", "bfloat16")
    assert disagreement(run_alone(finding)) > 0.5
    assert examined(name, planted, "float32").kind == "right"


def test_large_results_are_scaled_so_that_rounding_does_not_hide_an_error() -> None:
    syntax, planted = framework("torch").syntax, square("torch", "bfloat16", "60 * square(h)")
    low, exact = (
        planted.program({**planted.usual("eager"), "dtype": dtype}, syntax) for dtype in ("bfloat16", "float64")
    )
    assert (low.scale, exact.scale) == (32, 1)
    assert "torch.sin((60 * square(h)) / 32)" in low.source()
    assert "torch.sin(60 * square(h))" in exact.source()
    finding = examined("torch", planted, "bfloat16")
    assert finding.kind == "wrong"
    assert disagreement(run(finding)) > 0.1
    assert examined("torch", Operation("square", "60 * h**2"), "bfloat16").kind == "right"


def test_a_point_that_rounding_reaches_by_chance_and_another_function_are_not_judged() -> None:
    chance = "h**2 * (math.nan if h.dtype == torch.float32 and (x == start).all() else 1)"
    finding = examined("torch", Operation("mine", chance, setup="import math\nstart = x.detach().clone()"), "float32")
    assert (finding.kind, finding.detail) == ("undecided", "rounding reaches a point without a derivative")
    finding = examined("torch", Operation("mine", "h + (h.dtype == torch.float32)"), "float32")
    assert (finding.kind, finding.detail) == ("undecided", "its value is off by more than rounding explains")


@pytest.mark.parametrize(
    ("code", "kind"), [("h.float().exp().to(h.dtype)", "right"), ("(60 * h).exp() / 1e30", "undecided")]
)
def test_rounding_is_no_error(code: str, kind: str) -> None:
    # The exponential of a rounded 60 h has no digits in bfloat16, so its value is off already.
    operation = Operation("mine", code, sizes={"b": (3, 3), "n": (4, 4)})
    assert examined("torch", operation, "bfloat16").kind == kind


def test_an_operation_that_does_not_take_the_dtype_is_not_counted() -> None:
    finding = examined("torch", Operation("mine", "torch.special.erfcx(h)"), "bfloat16")
    assert (finding.kind, finding.detail) == ("not tried", "its value cannot be computed there")


def test_a_value_that_is_no_number_in_one_dtype_is_a_finding() -> None:
    finding = examined("torch", Operation("mine", "torch.linalg.matrix_exp(h)", shape="({n}, {n})"), "bfloat16")
    assert (finding.kind, finding.detail) == ("first derivative", "NaN")
    assert "nan" in run(finding)


def test_what_has_no_derivative_in_one_dtype_raises_there() -> None:
    kinds = {"torch.special.i0(h)": "raises", "torch.special.i1(h)": "first derivative"}
    for code, kind in kinds.items():
        finding = examined("torch", Operation("mine", code), "bfloat16")
        assert finding.kind == kind
        assert "i1_backward" in finding.detail
    assert examined("torch", Operation("mine", "torch.special.i0(h)"), "float32").kind == "right"


@pytest.mark.parametrize("composition", ["forward-reverse", "reverse-forward", "reverse-reverse-reverse"])
def test_the_program_computes_what_the_sweep_does(composition: str) -> None:
    # The cube by its Taylor polynomial, cut off after the derivatives that the composition builds on.
    terms = ["c ** 3", "3 * c ** 2 * (h - c)", "3 * c * (h - c) ** 2"][: 3 if composition.count("-") == 2 else 2]
    cut = " + ".join(terms).replace("c", "h.detach()")
    cube = Operation("cube", f"h ** 3 if h.dtype == torch.float64 else {cut}")
    finding = examined("torch", cube, "float32", composition)
    assert finding.kind == "wrong"
    assert disagreement(run(finding)) > 1e-2
