"""The examples run, and what they are there to show is there in a short run too."""

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PAGES = sorted((ROOT / "docs" / "examples").glob("*.md"))


def results(name: str, **settings: Any) -> Any:
    """The result of the example's `main`."""
    specification = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module.main(**settings)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_each_example_stands_on_a_page_with_its_command(script: Path) -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert f"../../examples/{script.name}" in text
    assert f"python examples/{script.name}" in text
    assert f"python examples/{script.name}" in script.read_text()


def test_the_pages_name_examples_that_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"examples/(\w+\.py)", page.read_text()):
            assert (ROOT / "examples" / name).exists(), (page, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits_torch", "digits_jax", "digits_tensorflow"])
def test_digits(name: str) -> None:
    outcome = results(name, steps=100, seeds=1)
    assert outcome["SpectReg"][1] < outcome["plain"][1]
    assert outcome["SpectReg"][0] > 80


@pytest.mark.slow
def test_digits_in_keras_fit() -> None:
    assert results("keras_digits", epochs=30, seeds=1)["SpectReg"] > 75


@pytest.mark.slow
def test_critics_in_keras_train_step_teach_a_generator() -> None:
    outcome = results("keras_critic", epochs=3, seed=0)
    assert max(outcome["WGAN-GP"], outcome["R1"]) < outcome["untrained"]


def test_a_contractive_code_moves_less() -> None:
    outcome = results("autoencoder", steps=100, seeds=1)
    assert outcome["contractive"]["norm"] < 0.5 * outcome["plain"]["norm"]


def test_forces_improve_a_surrogate_of_the_energy() -> None:
    outcome = results("surrogate", steps=150, seeds=1)
    assert outcome["with forces", 200] < outcome["energies", 200]


def test_critics_teach_a_generator() -> None:
    outcome = results("critics", steps=150, seed=0)
    assert max(outcome["WGAN-GP"], outcome["R1"]) < outcome["untrained"]


@pytest.mark.slow
def test_networks_of_another_library() -> None:
    with pytest.warns(match="BatchNorm2d"):
        outcome = results("image_networks", steps=10, seeds=1)
    assert outcome["ConvNeXt", "SpectReg"][1] < outcome["ConvNeXt", "plain"][1]


@pytest.mark.slow
def test_a_constrained_policy_is_smoother() -> None:
    outcome = results("policy", iterations=6, seeds=1, noise=0.1)
    assert outcome["constrained"]["norm"] < outcome["plain"]["norm"]


@pytest.mark.slow
def test_a_text_classifier_moves_less() -> None:
    outcome = results("text_classifier", steps=30, seeds=1, labelled=200, weight=1.0)
    assert outcome["SpectReg"][1] < outcome["plain"][1]


@pytest.mark.slow
def test_adapters_of_a_language_model() -> None:
    outcome = results("lora", pretraining=15, steps=15, labelled=64, weight=0.1, seed=0)
    assert outcome["DataGrad"][1] < outcome["plain"][1]
