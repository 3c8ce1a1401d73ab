"""Errors in every composition of modes are detected, and the programs that show them stand alone."""

import subprocess
import sys
from dataclasses import replace

import pytest

from gradreg_sweep.compositions import COMPOSITIONS, FORWARD, PENALTY, THIRD
from gradreg_sweep.operation import Operation
from gradreg_sweep.registry import framework
from gradreg_sweep.search import Finding, examine
from instruments.sweep.findings import disagreement, run

STOPPED = {
    "torch": "{array}.detach()",
    "jax": "jax.lax.stop_gradient({array})",
    "tensorflow": "tf.stop_gradient({array})",
}
MIXED = [composition for composition in COMPOSITIONS if composition not in (PENALTY, FORWARD)]


def cut(name: str, order: int) -> Operation:
    """The cube by its Taylor polynomial at itself: derivatives below some order are right, from there on zero."""
    c = STOPPED[name].format(array="h")
    terms = [f"{c} ** 3", f"3 * {c} ** 2 * (h - {c})", f"3 * {c} * (h - {c}) ** 2"]
    return Operation("cube", " + ".join(terms[:order]))


def examined(name: str, operation: Operation, composition: str) -> Finding:
    swept = framework(name)
    return examine(swept, operation, swept.modes_for(composition)[0], 1, composition)


def run_alone(finding: Finding, name: str) -> str:
    """`run`, with JAX's float64 switched on for the program alone."""
    if name != "jax":
        return run(finding)
    import jax

    program = finding.reproduction.replace('jax.config.update("jax_enable_x64", True)\n', "")
    with jax.enable_x64(True):
        return run(replace(finding, reproduction=program))


@pytest.mark.slow
@pytest.mark.sample(3)
@pytest.mark.parametrize("composition", MIXED)
@pytest.mark.parametrize("name", STOPPED)
def test_a_derivative_that_is_cut_off_is_caught_and_shown(name: str, composition: str) -> None:
    finding = examined(name, cut(name, 3 if composition in THIRD else 2), composition)
    assert finding.kind == "wrong"
    assert disagreement(run_alone(finding, name)) > 1e-2


@pytest.mark.parametrize("composition", MIXED)
def test_the_whole_function_passes(composition: str) -> None:
    assert examined("torch", Operation("cube", "h ** 3"), composition).kind == "right"


@pytest.mark.slow
@pytest.mark.parametrize("composition", ["reverse-forward", "forward-forward"])
def test_the_program_about_layer_norm_shows_it_in_a_process_of_its_own(composition: str, tmp_path) -> None:
    (layer,) = [known for known in framework("torch").operations if known.name == "torch.nn.LayerNorm"]
    finding = examined("torch", layer, composition)
    assert finding.kind == "wrong"
    (tmp_path / "program.py").write_text(finding.reproduction)
    shown = subprocess.run(
        [sys.executable, "-I", "program.py"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert disagreement(shown.stdout) > 1e-2


def test_dual_levels_do_not_nest_so_that_torch_func_takes_their_place() -> None:
    assert framework("torch").modes_for("forward-forward")[0] == "func"
    assert framework("torch").modes_for("reverse-forward")[0] == "eager"


def test_a_difference_that_is_rounding_is_no_error() -> None:
    # Of two numbers, a layer norm is nearly their sign: its gradient is what cancellation leaves.
    swept = framework("torch")
    (layer,) = [known for known in swept.operations if known.name == "torch.nn.LayerNorm"]
    pinned = replace(layer, sizes={"b": (1, 1), "n": (2, 2)})
    assert examine(swept, pinned, "eager", 16).kind == "right"
