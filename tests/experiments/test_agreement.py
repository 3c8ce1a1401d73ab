"""All backends against the NumPy reference and each other, on every kind of portable network and every preset."""

from importlib import import_module

import pytest

import gradreg_core
import gradreg_numpy
from cases import FLOAT64, GENERAL, NETWORKS, PRESETS, network, relative
from gradreg_conformance import Case, agreement
from gradreg_core.presets import DataGrad, JacReg, SpectReg
from gradreg_core.spec import Regularizer

BACKENDS = ("torch", "jax", "tensorflow")
MODES = {"torch": "eager", "jax": "jit", "tensorflow": "eager"}
_WHOLE, _PARTS = PRESETS + GENERAL[:-2], GENERAL[-2:]
CASES: dict[str, tuple[str, Regularizer]] = {
    # One program per sum: the relative error is of all gradients together, and each term's are of usual size.
    **{f"dense-{start}": ("dense", sum(_WHOLE[start + 7 :: 7], _WHOLE[start])) for start in range(7)},
    **{f"dense-part-{index}": ("dense", reg) for index, reg in enumerate(_PARTS)},
    **{name: (name, DataGrad(2.0) + SpectReg(0.3) + JacReg(0.5)) for name in NETWORKS if name != "dense"},
    "critic": ("critic", sum(PRESETS[8:11], PRESETS[0])),
}


@pytest.mark.slow
@pytest.mark.sample(6)
@pytest.mark.parametrize("case", CASES)
def test_float64_equals_the_reference(case: str) -> None:
    name, reg = CASES[case]
    drawn = Case(network(name), reg, 4, step=2)
    for backend in ("jax", "tensorflow"):  # PyTorch has its own such test, eager and compiled
        comparisons = agreement(backend, drawn, mode=MODES[backend], of="total")
        assert max(comparison.relative for comparison in comparisons.values()) <= FLOAT64, backend


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_four_calls_and_all_words_have_the_same_names(backend: str) -> None:
    package = import_module(f"gradreg_{backend}")
    shared = set(import_module("gradreg_core.vocabulary").__all__) | {"loss", "penalty", "measure", "check"}
    extra = {"torch": {"Criterion"}, "jax": set(), "tensorflow": set()}[backend]
    assert set(package.__all__) == shared | extra
    assert shared <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert shared <= set(gradreg_numpy.__all__)
    assert shared <= set(gradreg_core.__all__)


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", ["dense", "conv", "attention"])
def test_float32_agrees_between_backends_to_roundoff(name: str) -> None:
    case = Case(network(name), DataGrad(1.0) + SpectReg(0.1), 4, dtype="float32")
    results = {backend: agreement(backend, case, mode=MODES[backend], of="total") for backend in BACKENDS}
    value, gradients = (results["torch"][part].result for part in ("value", "gradients"))
    for backend in BACKENDS[1:]:
        # Measured between frameworks: 2 to 5 unit roundoffs of 6e-8 for well-scaled networks; wrong ones: 1e-2.
        assert results[backend]["value"].result["value"] == pytest.approx(value["value"], rel=1e-6)
        assert relative(results[backend]["gradients"].result, gradients) < 2e-6
