"""The sweep: right operations come out right, known errors are found, and the programs it prints show them."""

import contextlib
import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from gradreg_core.cli.main import main
from gradreg_sweep import report
from gradreg_sweep.differences import derivative
from gradreg_sweep.operation import Operation
from gradreg_sweep.registry import framework
from gradreg_sweep.search import Finding, examine

FEW = 4
"""Configurations an operation, beside the usual one: enough for all that is tested here."""


@cache
def found(name: str, operation: str, mode: str = "") -> Finding:
    swept = framework(name)
    (chosen,) = [each for each in swept.operations if each.name == operation]
    return examine(swept, chosen, mode or swept.modes[0], FEW)


def run(finding: Finding) -> str:
    """What the finding's program prints, run by itself."""
    assert "gradreg" not in finding.reproduction
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(finding.reproduction, finding.operation, "exec"), {})
    return printed.getvalue()


def disagreement(printed: str) -> float:
    """Relative, of the two numbers that a program prints."""
    one, other = (float(each) for each in re.findall(r": +(\S+)", printed))
    return abs(one - other) / max(abs(one), abs(other))


def small(finding: Finding) -> bool:
    """At most 36 numbers in x; an image of 3 by 3 pixels and an odd batch of two has 36."""
    return bool(np.prod(OPERATION[finding.operation].input_shape(finding.configuration)) <= 36)


OPERATION: dict[str, Operation] = {each.name: each for each in framework("tensorflow").operations}


# --- differences -----------------------------------------------------------------------------------------------------
def test_a_derivative_and_its_error() -> None:
    exact = np.array([1.0, 3.0])
    estimate = derivative(lambda t: np.array([np.sin(t), np.exp(3 * t)]))
    assert np.linalg.norm(estimate.value - exact) < 1e-11
    assert np.linalg.norm(estimate.value - exact) <= 10 * estimate.error + 1e-14
    assert not estimate.kinked


def test_a_kink_aside_is_avoided_and_one_at_hand_is_noticed() -> None:
    aside = derivative(lambda t: np.asarray(np.sin(t) + max(t - 0.01, 0)))
    assert float(aside.value) == pytest.approx(1, abs=1e-6)
    assert derivative(lambda t: np.asarray(np.sin(t) + max(t - 1e-9, 0))).kinked
    assert derivative(lambda t: np.asarray(np.sin(t) + np.sign(t - 1e-9))).kinked


def test_rounding_to_float32_shows_in_the_error() -> None:
    estimate = derivative(lambda t: np.asarray(np.float32(np.exp(t + 0.3))), 2.0**-23)
    assert 1e-9 < abs(float(estimate.value) - np.exp(0.3)) <= 10 * estimate.error


# --- what TensorFlow is known to get wrong ---------------------------------------------------------------------------
WRONG = {
    "tf.nn.moments": 1e-3,
    "tf.keras.layers.LayerNormalization": 1e-3,
    "tf.keras.layers.GroupNormalization": 1e-3,
    "tf.keras.layers.BatchNormalization": 1e-3,
    "tf.keras.ops.moments": 1e-3,
    "tf.nn.softmax_cross_entropy_with_logits, labels of the model": 1e-3,
}


@pytest.mark.parametrize("operation", WRONG)
def test_tensorflow_is_wrong_and_the_program_shows_it(operation: str) -> None:
    finding = found("tensorflow", operation)
    assert finding.kind == "wrong"
    assert finding.error > WRONG[operation]
    assert small(finding)
    assert disagreement(run(finding)) > 1e-5  # differences with a step of 1e-4 are right to 1e-6


@pytest.mark.parametrize("operation", ["tf.image.resize, bilinear", "tf.keras.layers.Resizing"])
def test_bilinear_resizing_is_silently_none(operation: str) -> None:
    finding = found("tensorflow", operation)
    assert finding.kind == "None"
    assert small(finding)
    assert run(finding) == "None\n"


def test_max_pooling_under_xla_is_wrong_where_values_are_close() -> None:
    finding = found("tensorflow", "tf.nn.max_pool2d", "xla")
    assert finding.kind == "wrong"
    assert finding.configuration["near"] == "1 + 1e-3 * h"
    assert disagreement(run(finding)) > 1e-3
    assert found("tensorflow", "tf.nn.max_pool2d").kind == "right"


def test_a_product_with_a_zero() -> None:
    finding = found("tensorflow", "tf.reduce_prod")
    assert finding.kind == "wrong"
    assert finding.configuration["zero"] == 1
    assert small(finding)
    assert disagreement(run(finding)) > 1e-2


def test_ctc_loss_is_not_a_number() -> None:
    finding = found("tensorflow", "tf.nn.ctc_loss")
    assert finding.kind == "NaN"
    assert "nan" in run(finding)


@pytest.mark.parametrize(
    "operation",
    [
        "tf.nn.softsign",
        "tf.nn.local_response_normalization",
        "tf.nn.max_pool_with_argmax",
        "tf.nn.fractional_max_pool",
        "tf.nn.dilation2d",
        "tf.image.crop_and_resize",
        "tf.image.resize, bicubic",
        "tf.image.resize, nearest",
    ],
)
def test_tensorflow_has_no_second_derivative_and_says_so(operation: str) -> None:
    finding = found("tensorflow", operation)
    assert finding.kind == "raises"
    assert finding.detail.startswith("LookupError")
    assert small(finding)
    with pytest.raises(LookupError, match="gradient registry has no entry"):
        run(finding)


@pytest.mark.parametrize(
    "operation",
    [
        "tf.nn.softmax",
        "tf.nn.conv2d",
        "tf.nn.tanh",
        "tf.keras.layers.Dense",
        "tf.keras.layers.RMSNormalization",
        "tf.keras.layers.BatchNormalization, not training",
    ],
)
def test_tensorflow_is_right(operation: str) -> None:
    assert found("tensorflow", operation).kind == "right"


# --- the other frameworks --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("operation", ["torch.cdist", "torch.nn.functional.hardsigmoid"])
def test_pytorch_has_no_second_derivative_and_says_so(operation: str) -> None:
    finding = found("torch", operation)
    assert finding.kind == "raises"
    with pytest.raises(RuntimeError, match="not implemented"):
        run(finding)


@pytest.mark.parametrize(
    ("name", "operation"),
    [("torch", "torch.nn.LayerNorm"), ("torch", "torch.nn.MaxPool2d, overlapping"), ("jax", "jax.nn.softmax")],
)
def test_the_others_are_right(name: str, operation: str) -> None:
    assert found(name, operation).kind == "right"


# --- operations made wrong on purpose --------------------------------------------------------------------------------
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


def run_in_single_too(finding: Finding, name: str) -> str:
    """`run`, with JAX's float64 switched on for the program alone."""
    if name != "jax":
        return run(finding)
    import jax

    program = finding.reproduction.replace('jax.config.update("jax_enable_x64", True)\n', "")
    with jax.enable_x64(True):
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


# --- reports and the command -----------------------------------------------------------------------------------------
def finding(**changes: Any) -> Finding:
    plain = Finding("torch", "PyTorch 0", "eager", "mine", "wrong", 0.25, reproduction="print(1)\n")
    return replace(plain, **changes)


def test_the_page_has_every_finding_with_its_program() -> None:
    page = report.as_markdown([finding(), finding(operation="good", kind="right", reproduction="")])
    assert "| [mine](#mine-eager) | PyTorch 0 | eager | wrong | 2e-01 |" in page
    assert '<a id="mine-eager"></a>' in page
    assert "```python\nprint(1)\n```" in page
    assert "**PyTorch 0, eager** (1): good." in page


def test_json_reads_back(tmp_path: Any) -> None:
    rows = [finding(also=("NaN",), configuration={"b": 1})]
    report.write(tmp_path / "a.json", rows)
    assert report.read(tmp_path / "a.json") == rows


def test_the_command(tmp_path: Any) -> None:
    call: Callable[..., Any] = lambda *words: CliRunner().invoke(main, ["sweep", *words])  # noqa: E731
    listed = call("torch", "--list", "--op", "cdist")
    assert (listed.exit_code, listed.output) == (0, "torch eager torch.cdist\n")
    swept = call("torch", "--op", "functional.softmin", "--report", str(tmp_path / "a.md"))
    assert swept.exit_code == 0, swept.output
    assert "right" in swept.output
    assert "softmin" in (tmp_path / "a.md").read_text()
    assert "no operation matches" in call("torch", "--op", "nonsense").output
    assert "no such mode: xla. There are torch: eager, func, compile" in call("torch", "--mode", "xla").output
    assert "expected one of torch, jax, tensorflow, got 'mxnet'" in call("mxnet").output


# --- the page that is committed --------------------------------------------------------------------------------------
PAGE = Path(__file__).parents[2] / "docs" / "findings.md"
PROGRAMS = re.findall(r"<summary>\d+\. (.*?)</summary>\n\n```python\n(.*?)```", PAGE.read_text(), re.S)


def test_the_page_has_what_tensorflow_is_known_to_get_wrong() -> None:
    text = PAGE.read_text()
    for operation in (*WRONG, "tf.image.resize, bilinear", "tf.reduce_prod", "tf.nn.ctc_loss", "tf.nn.softsign"):
        assert f"[{operation}](#" in text, operation
    assert text.count('<a id="') == len(PROGRAMS) > 50


@pytest.mark.parametrize(("title", "program"), [each for each in PROGRAMS if "import torch" in each[1]])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of checkpoint, before it refuses
def test_the_programs_of_the_page_show_it(title: str, program: str) -> None:
    shown = replace(finding(), reproduction=program, operation=title)
    kind = title.rpartition(": ")[2].split()[0]
    if kind in ("raises", "first"):
        causes = "not implemented|double backward|use_reentrant|saved tensor hooks|mutate a captured|have storage"
        with pytest.raises(RuntimeError, match=causes):
            run(shown)
    elif kind == "NaN":
        assert "nan" in run(shown)
    else:
        assert disagreement(run(shown)) > 1e-5
