"""``gradreg demo --compare``."""

import json

import matplotlib.image
import numpy as np
import pytest

from gradreg_core.errors import BackendImportError, InputError
from gradreg_experiments import trainers
from gradreg_experiments.curves import DTYPES, Curves
from gradreg_experiments.demo import compare


@pytest.mark.slow
def test_frameworks_draw_the_same_and_train_the_same(run_demo, tmp_path):
    done = run_demo("--quick", "--compare", "--backend", "torch", "--backend", "jax")
    assert done.exit_code == 0
    numbers = json.loads((tmp_path / "compare.json").read_text())
    assert numbers["reference"] == "torch"
    for dtype, tolerance in (("float32", 1e-4), ("float64", 1e-11)):
        assert list(numbers["losses"][dtype]) == ["torch", "jax"]
        ours, theirs = map(np.array, numbers["losses"][dtype].values())
        assert ours[-1] < ours[0]
        np.testing.assert_allclose(ours, theirs, rtol=tolerance)
        worst = float(np.max(np.abs(theirs - ours) / ours))
        assert numbers["drift"][dtype]["jax"][str(len(ours))] == pytest.approx(worst)
        assert f"{worst:.1e}" in done.output
    picture = matplotlib.image.imread(tmp_path / "compare.png")
    assert (np.ptp(picture[..., :3], axis=-1) > 0.3).mean() > 0.001


@pytest.fixture
def only(monkeypatch):
    """A function that hides all backends but those named."""
    find_backend = trainers.find_backend

    def hide(*installed):
        def find(name):
            if name not in installed:
                raise BackendImportError(f"{name!r} is not installed. Install it with: pip install {name}")
            return find_backend(name)

        monkeypatch.setattr(trainers, "find_backend", find)

    return hide


def test_frameworks_that_are_not_installed_are_left_out_unless_they_are_named(only):
    only("torch", "tensorflow")
    names, skipped = compare.comparable()
    assert names == ("torch", "tensorflow")
    assert list(skipped) == ["jax"]
    assert "'jax' is not installed" in skipped["jax"]
    assert compare.comparable(["tensorflow", "torch"]) == (("tensorflow", "torch"), {})
    with pytest.raises(BackendImportError, match="'jax' is not installed"):
        compare.comparable(["torch", "jax"])
    with pytest.raises(InputError, match=r"at least two backends, got torch\. Add another with --backend"):
        compare.comparable(["torch", "torch"])
    only("torch")
    with pytest.raises(InputError, match=r"at least two backends, got torch\. 'jax' is not installed.*'tensorflow'"):
        compare.comparable()


def compared(names, train, recipe):
    losses = {"torch": np.array([1.0, 2.0, 4.0, 2.0]), "jax": np.array([1.0, 2.5, 3.0, 2.0])}
    return [Curves("run", dtype, {name: losses[name] for name in names}) for dtype in DTYPES]


def test_what_is_left_out_is_told(run_demo, only, monkeypatch):
    only("torch", "jax")
    monkeypatch.setattr(compare, "compare_frameworks", compared)
    done = run_demo("--compare")
    assert "tensorflow is left out: 'tensorflow' is not installed. Install it with" in done.output
    assert "2.5e-01" in done.output


def test_the_drift_is_reported_at_powers_of_ten_and_at_the_end():
    curves = [Curves("run", dtype, {"a": np.ones(300), "b": np.ones(300)}) for dtype in DTYPES]
    assert compare.as_json(curves)["drift"]["float64"]["b"] == {"1": 0, "10": 0, "100": 0, "300": 0}
