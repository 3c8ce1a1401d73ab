"""The built-in backends conform: the quick profile of the conformance kit, every check of it."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradreg_conformance import Disagreement, load_subject, run_checks
from gradreg_conformance.harness import Arrays, Function
from gradreg_conformance.runner import all_checks
from gradreg_conformance.subject import Subject
from gradreg_torch.harness import TorchHarness


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow", "numpy"])
def test_a_built_in_backend_passes_the_quick_profile(backend: str) -> None:
    report = run_checks(backend, stop=False)
    assert report.ok, "\n\n".join(f"{check.name}: {check.message}" for check in report.failures)
    assert report.tolerance <= 4
    assert report.totals["expected failure"] == 0


SHARDED = """
from gradreg_conformance import load_harness, run_checks
harness = load_harness("jax")
assert harness.modes[-1] == "sharded", harness.modes
harness.modes = ("unoptimised", "sharded")
names = ["every_mode_equals_the_first", "draws_at_a_traced_step"]
report = run_checks(harness, checks=names)
assert report.ok and report.ran == 2, [check.message for check in report.checks]
"""


@pytest.mark.slow
def test_jax_over_two_devices(tmp_path: Path) -> None:
    paths = {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    environment = os.environ | paths | {"JAX_NUM_CPU_DEVICES": "2"}
    command = [sys.executable, "-W", "error", "-c", SHARDED]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_a_step_for_which_is_compiled_anew_is_caught() -> None:
    class Recompiling(TorchHarness):
        modes = ("eager", "compile")

        def compiled(self, function: Function, mode: str) -> tuple[Function, Callable[[], int]] | None:
            made = super().compiled(function, mode)
            if made is None:
                return None
            run, count = made

            def call(arrays: Arrays) -> Any:
                return run({**arrays, "step": int(arrays["step"])})

            return call, count

    subject = Subject("recompiling", Recompiling())
    with pytest.raises(Disagreement, match=r"was compiled 2 times for step = "):
        all_checks()["draws_at_a_traced_step"](subject)


def test_the_reference_says_that_it_is_one() -> None:
    assert "reference itself" in load_subject("numpy").harness.note
